"""What runs on this machine without a key or a network: a small language model and a calculator."""
