import type { Channel, ConsumeMessage } from 'amqplib'
import { randomUUID } from 'node:crypto'
import type { StoredTask } from '../../../types/backend'
import type { TakenTask } from '../intake'
import type { Incoming } from './incoming'
import type { AttemptRecord } from './results'

/** One consumer of AMQP. RabbitMQ delivers as many messages as have not been acknowledged of its prefetch. */
export class Consumer {
  readonly tag = `fastify-background-tasks-${randomUUID()}`
  readonly channel: Channel
  /** The number of messages that it may still bring. */
  credit: number

  constructor (channel: Channel, prefetch: number) {
    this.channel = channel
    this.credit = prefetch
  }
}

/** One message that a worker has. Made when it comes, ends when it is acknowledged, or lost with its connection. */
export class HeldMessage {
  readonly incoming: Incoming
  /** Aborts when the task is cancelled. */
  readonly controller = new AbortController()
  /** After a redelivery, the last one: only that can be acknowledged. */
  message: ConsumeMessage
  consumer: Consumer
  /** JSON text of the last progress; `null` without one. */
  progress: string | null = null
  /** Whether the attempt has ended, though not all of that is written yet. */
  ended = false
  /** Clears the timer of a message that waits. */
  clearTimer: (() => void) | null = null

  constructor (incoming: Incoming, message: ConsumeMessage, consumer: Consumer) {
    this.incoming = incoming
    this.message = message
    this.consumer = consumer
  }

  get task (): StoredTask {
    return this.incoming.task
  }

  /** One delivery in the life of a task: attempts are messages of their own. */
  get key (): string {
    return `${this.task.id} ${this.incoming.retries}`
  }

  get taken (): TakenTask {
    return { name: this.task.name, crashes: this.incoming.crashes }
  }

  get attempt (): AttemptRecord {
    return { ...this.incoming, progress: this.progress }
  }

  /** Milliseconds until the task may begin; 0 if it is due. */
  get wait (): number {
    return Math.max((this.incoming.eta ?? 0) - Date.now(), 0)
  }
}
