"""A process that uses the embedded stack until its standard input ends."""

from __future__ import annotations

import sys

from deploy.stack import Stack

if __name__ == "__main__":
    stack = Stack()
    with stack.use(lambda: None):
        print("in", flush=True)
        sys.stdin.read()
        stack.check()
