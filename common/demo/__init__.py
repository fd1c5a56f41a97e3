"""The embedded foundation model of the demo, its facts and its tasks: nothing is downloaded or trained."""
