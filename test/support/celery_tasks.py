# Celery's side of the tests: its tasks, and a client that prints the value of an expression as JSON.
import json
import os
import sys
import time
from datetime import datetime, timezone

from celery import Celery, chain, chord, group, signature
from celery.result import AsyncResult
from celery.utils.time import maybe_iso8601

app = Celery('tests', broker=os.environ['BROKER'], backend=os.environ['RESULTS'])


@app.task(name='py.echo')
def echo(*args, **kwargs):
    return {'args': args, 'kwargs': kwargs}


@app.task(name='py.add')
def add(x, y):
    return x + y


@app.task(name='py.fail')
def fail(message):
    raise ValueError(message)


@app.task(name='py.progress', bind=True)
def progress(self, gate):
    self.update_state(state='PROGRESS', meta={'percent': 40, 'text': 'ä'})
    while not os.path.exists(gate):
        time.sleep(0.02)
    return 'done'


@app.task(name='py.retry', bind=True, max_retries=3)
def retry(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return self.request.retries


@app.task(name='py.late', acks_late=True, reject_on_worker_lost=True)
def late(journal, gate):
    with open(journal, 'a') as lines:
        lines.write(f'{os.getpid()}\n')
    while not os.path.exists(gate):
        time.sleep(0.02)
    return os.getpid()


@app.task(name='py.slow')
def slow(file, ms):
    time.sleep(ms / 1000)
    with open(file, 'a') as lines:
        lines.write('x\n')


def thrown(get):
    """The type and the text of what an expression raises."""
    try:
        get()
    except Exception as error:
        return [type(error).__name__, str(error), isinstance(error, Exception)]


def states(result, known):
    """Waits for a state that is in `known`, and returns it with what is told of it."""
    while result.state not in known:
        time.sleep(0.02)
    return [result.state, result.info]


if __name__ == '__main__':
    print(json.dumps(eval(sys.argv[1])))
