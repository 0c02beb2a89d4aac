import os
from celery import Celery

app = Celery('shop', broker=os.environ.get('BROKER_URL', 'amqp://'), backend=os.environ.get('RESULT_BACKEND', 'redis://'))


@app.task(name='shop.resize', bind=True)
def resize(self, key, width):
    self.update_state(state='PROGRESS', meta={'percent': 50})
    resized = {'key': key, 'pixels': width * width * 3 // 4}
    app.send_task('web.announce', kwargs=resized, queue='web')
    return resized
