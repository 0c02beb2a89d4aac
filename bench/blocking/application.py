"""The same routes on FastAPI: a sync function runs in its thread pool."""

import os

from fastapi import BackgroundTasks, FastAPI

app = FastAPI()
started = False
done = 0
PRIMES = int(os.environ["PRIMES"])


def works():
    """Tasks one after the other: nothing but a request can add one."""
    global done
    while started:
        work()
        done += 1


def work():
    found = 0
    i = 2
    while found < PRIMES:
        j = 2
        prime = True
        while j * j <= i:
            if i % j == 0:
                prime = False
                break
            j += 1
        if prime:
            found += 1
        i += 1


@app.get("/idle")
async def idle():
    return {"idle": True}


@app.post("/start")
async def start(background_tasks: BackgroundTasks):
    global started
    started = True
    background_tasks.add_task(works)
    return {}


@app.post("/stop")
async def stop():
    global started
    started = False
    return {}


@app.get("/done")
async def get_done():
    return {"done": done}
