import { randomUUID } from 'node:crypto'
import { test } from 'tap'
import { celery } from '../../lib/backends/celery'
import { conformance, repeatable } from '../support/conformance'
import { noRabbit, noRedis, ownRabbit, redis } from '../support/services'

test('Celery on RabbitMQ', { skip: noRabbit || noRedis }, async t => {
  const [{ url: broker }, { url: results }] = await Promise.all([ownRabbit(t), redis(t)])
  const options = async () => {
    const queue = `conformance-${randomUUID()}`
    return repeatable(() => ({ backend: celery({ broker, queue, results }) }))
  }
  conformance(t, {
    options,
    durable: true,
    lacks: {
      dedupe: 'RabbitMQ cannot tell whether a queue has a task already',
      cancelWaiting: 'RabbitMQ takes no message out of the middle of a queue',
      schedules: 'Celery has a scheduler of its own',
      list: 'RabbitMQ shows no message that it does not hand out'
    }
  })
})
