"""TensorFlow, and Keras on it: values from tensors, gradients from a GradientTape; a tf.function as it is."""

from __future__ import annotations

import numpy as np

from .framework import FrameworkCandidate, imported


def adapt(loss, value, grad, dtype) -> TensorFlowCandidate:
    return TensorFlowCandidate(loss, value, grad, imported("tensorflow", "TensorFlow", "tensorflow"))


class TensorFlowCandidate(FrameworkCandidate):
    framework = "tensorflow"
    tries = 20

    def __init__(self, loss, value, grad, tensorflow):
        super().__init__(loss, value, grad)
        self.tensorflow = tensorflow

    def own(self, x):
        return self.tensorflow.constant(x) if isinstance(x, np.ndarray) else x

    def array(self, x):
        if isinstance(x, self.tensorflow.IndexedSlices):  # the gradient of a gather
            x = self.tensorflow.convert_to_tensor(x)
        return np.asarray(x)

    def pull_back(self, function, variables, cotangent):
        with self.tensorflow.GradientTape() as tape:
            for variable in variables:
                tape.watch(variable)
            result = function(*variables)
        given = self.tensorflow.reshape(self.tensorflow.cast(self.own(cotangent), result.dtype), result.shape)
        return tape.gradient(result, variables, given, unconnected_gradients="zero")
