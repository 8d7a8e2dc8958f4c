"""Models in the form of the Hugging Face hub: model.safetensors, config.json and a model card.

`folders` reads and fetches them, `models` writes and publishes them, `card` says what a model is. The packages
huggingface_hub and safetensors are optional; what needs them says so.
"""
