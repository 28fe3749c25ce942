"""The shared core: music as numpy arrays. It knows no stage and imports no TensorFlow, Keras, Beam or Flask."""
