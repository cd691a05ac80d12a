"""TensorFlow's checkpoints, without TensorFlow."""
