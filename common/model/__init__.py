"""The frozen base model with its LoRA adapter."""
