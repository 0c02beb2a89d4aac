import type { ActionResult, GroupResult, Overview, ScheduleView, TaskDetails, TaskPage } from '../protocol'
import { type ListRoute, queryOf } from './model/route'
import { Seconds } from './model/series'

/** Milliseconds after which the page does not call itself live any more: a server that is too busy to speak does not hang up. */
const SILENCE_MS = 5_000
const RECONNECT_MS = 1_000
const REFUSED_MS = 5_000

/** A header that no other page can send without this server's consent. */
const OWN_PAGE = { 'x-background-tasks-dashboard': '1' }

/** The server's side, as far as this page has heard of it. */
export class Server {
  overview: Overview | null = null
  readonly seconds = new Seconds()
  /** Why the page does not show what is now; empty if it does. */
  trouble = 'Connecting …'
  /** When the server was last heard, by this clock. */
  heard = 0
  /** How far the server's clock is ahead of this one's, in ms. */
  #ahead = 0
  readonly #listeners = new Set<() => void>()

  start (): void {
    this.#connect()
    setInterval(() => {
      if (this.trouble === '' && Date.now() - this.heard > SILENCE_MS) this.trouble = 'The server is silent, or too busy to speak.'
      if (this.trouble !== '') this.#tell()
    }, 1_000)
  }

  /** By the server's clock. */
  get now (): number {
    return Date.now() + this.#ahead
  }

  /** Calls back after each change, until the returned function is called. */
  subscribe (listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  #tell (): void {
    for (const listener of this.#listeners) listener()
  }

  #receive (overview: Overview): void {
    this.heard = Date.now()
    this.#ahead = overview.now - this.heard
    this.trouble = ''
    this.overview = overview
    this.seconds.add(overview.seconds, overview.now, overview.full)
    this.#tell()
  }

  /** Not an EventSource, which cannot send the header that shows the server whose page it is. */
  async #connect (): Promise<void> {
    const response = await fetch('events', { headers: OWN_PAGE }).catch(() => null)
    if (response !== null && response.ok && response.body !== null) await this.#read(response.body)
    this.trouble = 'The connection is lost; trying again …'
    this.#tell()
    setTimeout(() => this.#connect(), response === null || response.ok ? RECONNECT_MS : REFUSED_MS)
  }

  async #read (body: ReadableStream<Uint8Array>): Promise<void> {
    const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader()
    let text = ''
    for (;;) {
      const { done, value } = await reader.read().catch(() => ({ done: true as const, value: undefined }))
      if (done) return
      const events = (text + value).split('\n\n')
      text = events.pop() as string
      for (const event of events) {
        try {
          this.#receive(JSON.parse(event.slice('data: '.length)) as Overview)
        } catch (error) {
          // The next event may be shown.
          reportError(error)
        }
      }
    }
  }

  list (route: ListRoute): Promise<TaskPage> {
    const parameters = new URLSearchParams(queryOf(route))
    parameters.set('order', route.newestFirst ? 'newest' : 'oldest')
    return ask(`lists/${route.list}?${parameters}`, 'GET') as Promise<TaskPage>
  }

  /** Resolves with `null` for a task that is not known any more. */
  async task (id: string): Promise<TaskDetails | null> {
    return (await ask(`tasks/${encodeURIComponent(id)}`, 'GET') as { task: TaskDetails | null }).task
  }

  act (id: string, action: 'cancel' | 'run-again' | 'dismiss'): Promise<ActionResult> {
    return ask(`tasks/${encodeURIComponent(id)}/${action}`, 'POST') as Promise<ActionResult>
  }

  /** Resolves with the number of tasks. The server takes a large group in parts. */
  async actOnGroup (id: string, action: 'run-again' | 'dismiss'): Promise<number> {
    const address = `groups/${encodeURIComponent(id)}/${action}`
    let { done, next } = await ask(address, 'POST') as GroupResult
    while (next !== null) {
      const query = Object.entries(next).map(([name, value]) => `${name}=${value}`).join('&')
      const result = await ask(`${address}?${query}`, 'POST') as GroupResult
      done += result.done
      next = result.next
    }
    return done
  }

  async schedules (): Promise<ScheduleView[]> {
    return (await ask('schedules', 'GET') as { schedules: ScheduleView[] }).schedules
  }

  runSchedule (id: string): Promise<ActionResult> {
    return ask(`schedules/${encodeURIComponent(id)}/run`, 'POST') as Promise<ActionResult>
  }

  async worker (action: 'pause' | 'resume'): Promise<boolean> {
    return (await ask(`worker/${action}`, 'POST') as ActionResult).done
  }
}

async function ask (path: string, method: 'GET' | 'POST'): Promise<unknown> {
  const response = await fetch(path, { method, headers: OWN_PAGE }).catch(() => { throw new Error('the server does not answer.') })
  const answer: unknown = await response.json().catch(() => ({ message: `the server answered with status ${response.status}.` }))
  if (!response.ok) throw new Error((answer as { message: string }).message)
  return answer
}

export const server = new Server()
