"""Keras 3: `.keras` and `.weights.h5` files, and live models, without Keras."""
