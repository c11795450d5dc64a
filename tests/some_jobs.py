"""Jobs for test_cluster.py. The process of a job finds this file; it does not find what conftest.py needs."""
import os
import signal
import time


def write_slowly(part, text, seconds=0):
    part.add_line("a", text)
    time.sleep(seconds)
    part.facts = {"text": text}


def die(part, victim):
    os.kill(os.getppid() if victim == "parent" else os.getpid(), signal.SIGKILL)
    time.sleep(60)                      # a job whose parent is dead ends before that
