"""The one preprocessing: from the bytes of a file to the 224x224 picture that a model sees."""
