import pino from 'pino'
import { bullmq } from '../../lib/backends/bullmq'

/* A process of the tests of schedules: a worker whose clock may be wrong, and that may be killed. */

export interface ScheduleProcessOptions {
  connection: string
  queue: string
  /** Milliseconds from one due time of the schedule `s` to the next. */
  every: number
  /** Milliseconds that the clock of this process is ahead. */
  clockAhead: number
}

async function main ({ connection, queue, every, clockAhead }: ScheduleProcessOptions): Promise<void> {
  const { now } = Date
  Date.now = () => now() + clockAhead
  const log = pino({ level: 'silent' })
  const backend = bullmq({ connection, queue, lockDuration: 1_000, stalledInterval: 500 })
  await backend.start(log, () => log, 5_000, new Map())
  await backend.work(5, async () => ({ state: 'completed', result: process.pid }), { names: new Set(), free: () => 0 })
  const task = { name: 'task', label: 'task', payload: null, requestId: null, attempts: 1, backoff: null, delay: 0, timeout: 0, dedupe: null, carrier: null }
  await backend.schedule!([{ id: 's', rule: { cron: null, timezone: null, every }, overlap: true, task }], ['task'])
  process.send!('ready')
}

main(JSON.parse(process.argv[2] as string))
