"""PyTorch's files and optimizers, and those of timm, stable-baselines3 and bitsandbytes."""
