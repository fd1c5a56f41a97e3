"""What codecs are made of: synthetic, collected and public gradients."""
