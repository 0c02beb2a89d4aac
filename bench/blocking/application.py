"""The same routes on FastAPI: a sync function runs in its thread pool."""

import os

from fastapi import BackgroundTasks, FastAPI

app = FastAPI()
done = 0
PRIMES = int(os.environ["PRIMES"])


def work():
    global done
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
    done += 1


@app.get("/idle")
async def idle():
    return {"idle": True}


@app.post("/work")
async def add_work(background_tasks: BackgroundTasks):
    background_tasks.add_task(work)
    return {"accepted": True}


@app.get("/done")
async def get_done():
    return {"done": done}
