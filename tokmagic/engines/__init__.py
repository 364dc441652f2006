"""An engine turns a prompt into a stream of events. Nothing downstream knows which one it listens to."""
