"""The gradient of the parameters, asked for alone as in training, is that part of the gradient of all."""

from rnnjax import testing

from . import Subject


def test_parameters_alone(subject: Subject) -> None:
    testing.parameters_alone(*subject)
