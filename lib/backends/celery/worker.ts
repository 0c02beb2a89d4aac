import type { ConsumeMessage } from 'amqplib'
import type { FastifyBaseLogger } from 'fastify'
import { now } from '../../shared/timers'
import type { Deliver, StoredTask, TaskDefaults } from '../../../types/backend'
import type { Intake } from '../intake'
import { loggedTask } from '../stored-task'
import { atMost, type BrokerOptions } from './broker'
import { HeldMessage, type Consumer } from './held-message'
import { readMessage, type Incoming, type UnusableMessage } from './incoming'
import { MessageEnds, type MessageEndsOptions } from './message-ends'
import { Shelf } from './shelf'
import { Subscription, type Subscriber } from './subscription'

export interface WorkerOptions extends MessageEndsOptions {
  intake: Intake
  deliver: Deliver
  maxCrashes: number
  defaultsOf: (name: string) => TaskDefaults | undefined
}

/**
 * Takes messages of one queue, has them run, and acknowledges them when that has ended. A message that is to be handed out again is
 * published as a new one before the old one is acknowledged: RabbitMQ itself counts no attempts. Made by the backend, ends with it.
 */
export class CeleryWorker implements Subscriber {
  readonly #options: WorkerOptions
  readonly #subscription: Subscription
  readonly #ends: MessageEnds
  readonly #shelf: Shelf
  /** Running, or about to be acknowledged; by the tasks' ids. */
  readonly #running = new Map<string, HeldMessage>()
  /** A message under which a worker went away, which runs alone or waits until it can. */
  #isolated: HeldMessage | null = null
  /** Such messages are about: the next one is taken when nothing else is here. */
  #oneByOne = false
  #onIdle: (() => void) | null = null
  #paused = false

  constructor (options: WorkerOptions, brokerOptions: Omit<BrokerOptions, 'setUp'>) {
    this.#options = options
    this.#subscription = new Subscription(options.queue, this, brokerOptions)
    this.#ends = new MessageEnds(options, this.#subscription)
    this.#shelf = new Shelf(this.#ends)
  }

  open (): Promise<void> {
    return this.#subscription.open()
  }

  get wanted (): number {
    if (this.#paused || this.#isolated !== null || this.#shelf.isFull) return 0
    if (this.#oneByOne) return this.#running.size + this.#shelf.aside.size === 0 && !this.#ends.returning ? 1 : 0
    return Math.max(this.#options.intake.places, 0)
  }

  /** Running tasks go on; a message that comes back is recognized. */
  lost (): void {
    this.#shelf.clear()
  }

  receive (message: ConsumeMessage, consumer: Consumer): void {
    let incoming: Incoming
    try {
      incoming = readMessage(message, this.#options.defaultsOf)
    } catch (error) {
      consumer.credit++
      return this.#ends.reject(error as UnusableMessage, message, consumer)
    }
    const held = new HeldMessage(incoming, message, consumer)
    const { redelivered } = message.fields
    if (redelivered && this.#isKnown(held)) return
    const { wait } = held
    if (incoming.expires !== null && incoming.expires <= Date.now()) this.#expire(held)
    else if (wait !== 0) this.#keep(held, wait, () => this.#offer(held))
    else if (redelivered) this.#crashed(held)
    else this.#offer(held)
  }

  /** Whether the task runs here, or has ended here: its first delivery was lost with a connection. */
  #isKnown (held: HeldMessage): boolean {
    const running = this.#running.get(held.task.id)
    if (running !== undefined && running.key === held.key) {
      running.message = held.message
      running.consumer = held.consumer
      return true
    }
    if (!this.#ends.hasEnded(held)) return false
    this.#ends.acknowledge(held)
    this.#subscription.free(held.consumer)
    return true
  }

  #expire (held: HeldMessage): void {
    this.#logOf(held).warn({ task: loggedTask(held.task) }, 'RabbitMQ: a background task has expired before it could begin')
    this.#ends.end(held, { state: 'cancelled', reason: 'expired' })
  }

  /** The worker that had the message was cut off: the message says so from now on, and is handed out again. */
  #crashed (held: HeldMessage): void {
    const { maxCrashes } = this.#options
    const crashes = held.incoming.crashes + 1
    const task = loggedTask(held.task)
    if (crashes <= maxCrashes) {
      this.#logOf(held).warn({ task }, 'RabbitMQ: a worker went away with a background task, which is handed out again')
      this.#oneByOne = true
      return this.#ends.return(held, { crashes })
    }
    const error = new Error(`the background task has failed: more than ${maxCrashes} workers went away with it`)
    this.#logOf(held).error({ err: error, task }, 'background task failed: too many workers went away with it')
    this.#ends.end(held, { state: 'failed', error })
  }

  #keep (held: HeldMessage, ms: number, then: () => void): void {
    this.#shelf.keep(held, ms, () => {
      then()
      this.#subscription.adjust()
    })
  }

  /** Has it run, now or as soon as there is a place for it. */
  #offer (held: HeldMessage): void {
    if (this.#isolated !== null) return this.#ends.return(held)
    if (held.incoming.crashes > 0) return this.#ends.track(this.#isolate(held))
    this.#oneByOne = false
    this.#shelf.putAside(held)
    this.#begin()
    this.#shelf.limit(held)
  }

  /** Begins what can begin. */
  #begin (): void {
    if (this.#paused) return
    for (const held of this.#shelf.aside) {
      if (this.#options.intake.places <= 0) return
      if (this.#running.has(held.task.id) || !this.#options.intake.canBegin(held.taken)) continue
      this.#shelf.take(held)
      this.#ends.track(this.#run(held))
    }
  }

  /**
   * Runs a message under which a worker went away: alone, and with nothing else in this process that RabbitMQ would take for its
   * victim if it kills this worker, too.
   */
  async #isolate (held: HeldMessage): Promise<void> {
    this.#isolated = held
    this.#oneByOne = true
    try {
      for (const other of this.#shelf.aside) {
        this.#shelf.take(other)
        this.#ends.return(other)
      }
      await this.#subscription.stop()
      if (this.#running.size !== 0) await new Promise<void>(resolve => { this.#onIdle = resolve })
      await this.#ends.returned()
      await this.#subscription.arrived(held.consumer)
      if (this.#paused) await this.#ends.putBack(held)
      else await this.#run(held)
    } finally {
      this.#isolated = null
      this.#subscription.adjust()
    }
  }

  async #run (held: HeldMessage): Promise<void> {
    const { intake, deliver, results, inTrouble } = this.#options
    const { task, incoming: { retries } } = held
    this.#running.set(task.id, held)
    intake.take(held.taken)
    results?.note('STARTED', held.attempt, { pid: process.pid, hostname: 'fastify-background-tasks' }).catch(inTrouble)
    const progress = this.#ends.progressOf(held)
    const end = await deliver({ task, attempt: retries + 1, signal: held.controller.signal, progress: value => progress.set(value) })
    held.ended = true
    intake.release(held.taken)
    this.#subscription.free(held.consumer)
    this.#begin()
    await progress.end()
    if (end.state === 'not attempted') await this.#notAttempted(held, end.delay)
    else await this.#ends.settle(held, end)
    if (this.#running.get(task.id) === held) this.#running.delete(task.id)
    if (this.#running.size === 0) this.#onIdle?.()
    // A second message of the same task may have waited.
    this.#begin()
    this.#subscription.adjust()
  }

  async #notAttempted (held: HeldMessage, delay: number): Promise<void> {
    await this.#options.results?.forget(held.attempt).catch(this.#options.inTrouble)
    if (delay === 0 || this.#paused) return this.#ends.putBack(held)
    // It is in no one's way meanwhile: what is kept does not count in what may run.
    held.consumer.credit--
    this.#keep(held, delay, () => this.#ends.return(held))
  }

  /** The state of a task without results: known only while the task is here. */
  find (id: string): { task: StoredTask, running: boolean, attempts: number } | null {
    const running = this.#running.get(id)
    const held = running ?? this.#shelf.find(id)
    if (held === undefined) return null
    return { task: held.task, running: running !== undefined, attempts: held.incoming.retries + (running === undefined ? 0 : 1) }
  }

  /** Aborts a task that runs here, or settles one that waits here. */
  async cancel (id: string): Promise<boolean> {
    const running = this.#running.get(id)
    if (running !== undefined) {
      if (running.ended) return false
      running.controller.abort()
      return true
    }
    const held = this.#shelf.find(id)
    if (held === undefined) return false
    this.#shelf.take(held)
    await this.#ends.finish(held, { state: 'cancelled', reason: 'cancelled' })
    this.#subscription.free(held.consumer)
    return true
  }

  #logOf ({ task }: HeldMessage): FastifyBaseLogger {
    return this.#options.logOf(task.requestId)
  }

  /** Hands out no more. */
  async pause (): Promise<void> {
    this.#paused = true
    // It fails if the connection is lost meanwhile: then nothing comes any more, either.
    await Promise.allSettled([this.#subscription.stop()])
  }

  /** Hands out tasks again. */
  resume (): void {
    this.#paused = false
    this.#begin()
    this.#subscription.adjust()
  }

  /** Waits, for so many ms, until what runs here has ended and is acknowledged. What waits here goes back. */
  async close (ms: number): Promise<void> {
    const deadline = now() + ms
    this.#paused = true
    // RabbitMQ takes what is not acknowledged for the end of a worker. What is not due cannot have begun.
    for (const held of this.#shelf.clear()) if (held.wait === 0) this.#ends.track(this.#ends.putBack(held))
    await atMost(ms, this.#ends.tracked())
    this.#ends.close()
    await this.#subscription.close(deadline - now())
  }
}
