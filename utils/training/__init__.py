"""What a training script stands on."""
