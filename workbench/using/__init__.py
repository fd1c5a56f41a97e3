"""A finished adapter in use: asked beside its base model, exported, published."""
