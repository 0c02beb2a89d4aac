"""The same three endpoints on FastAPI, as its tutorial writes them."""

import os

from fastapi import BackgroundTasks, FastAPI

app = FastAPI()
ended = 0


async def notify(email: str, message: str):
    global ended
    ended += 1


def notify_sync(email: str, message: str):
    global ended
    ended += 1


@app.post("/one-async/{email}")
async def one_async(email: str, background_tasks: BackgroundTasks):
    background_tasks.add_task(notify, email, message="some notification")
    return {"message": "Notification sent in the background"}


@app.post("/one-sync/{email}")
async def one_sync(email: str, background_tasks: BackgroundTasks):
    background_tasks.add_task(notify_sync, email, message="some notification")
    return {"message": "Notification sent in the background"}


@app.post("/ten-async/{email}")
async def ten_async(email: str, background_tasks: BackgroundTasks):
    for _ in range(10):
        background_tasks.add_task(notify, email, message="some notification")
    return {"message": "Notification sent in the background"}


@app.get("/account")
async def account():
    """What the benchmark reads around each slice."""
    times = os.times()
    return {"cpu": times.user + times.system, "ended": ended}
