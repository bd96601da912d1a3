"""A model family in torch: a small convolution and a perceptron."""
