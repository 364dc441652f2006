"""How fast a model answers and what that costs, by the number of requests at once, beside what the machine can do.

The door is :func:`tokmagic.bench.running.bench`. Requests go to an engine directly, in a closed loop: as many threads
as there are requests at once, each with the next prompt as soon as its last answer ended. Nothing here imports torch;
the limits of a device are measured by the engine that is on it.
"""
