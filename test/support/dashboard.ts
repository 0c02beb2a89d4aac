import type { Test } from 'tap'
import type { GroupCursor, GroupResult, ListName, Overview, TaskDetails, TaskPage, TaskView } from '../../lib/dashboard/protocol'
import { signal } from './server'
import { NEVER_MS } from './until'

export type Told = Overview

/** A viewer of the dashboard, without a page. */
export interface Viewer {
  readonly first: Promise<Told>
  next (): Promise<Told>
  /** The next one for which it is so. */
  until (isSo: (told: Told) => boolean): Promise<Told>
  close (): void
  /** Resolves with `true` when the server ends the stream. */
  readonly ended: Promise<boolean>
}

/** The page's headers, for actions and for its stream. */
export const OWN_PAGE = { 'x-background-tasks-dashboard': '1' }

/** It leaves when the test ends. */
export async function openStream (t: Test, url: string, headers: Record<string, string> = {}): Promise<Viewer> {
  const controller = new AbortController()
  t.teardown(() => controller.abort())
  const response = await fetch(url, { headers: { ...OWN_PAGE, ...headers }, signal: controller.signal })
  t.equal(response.status, 200)
  t.equal(response.headers.get('content-type'), 'text/event-stream')
  const waiting: Told[] = []
  let more = signal()
  async function read (): Promise<boolean> {
    let text = ''
    try {
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        text += chunk
        const events = text.split('\n\n')
        text = events.pop() as string
        for (const event of events) waiting.push(JSON.parse(/^data: (.*)$/m.exec(event)![1] as string) as Told)
        more.resolve()
      }
      return true
    } catch {
      return false
    }
  }
  const ended = read()
  async function next (): Promise<Told> {
    while (waiting.length === 0) {
      more = signal()
      await more.promise
    }
    return waiting.shift() as Told
  }
  async function until (isSo: (told: Told) => boolean): Promise<Told> {
    const deadline = performance.now() + NEVER_MS
    for (;;) {
      const told = await next()
      if (isSo(told)) return told
      if (performance.now() > deadline) throw new Error(`the dashboard tells something else: ${JSON.stringify(told)}`)
    }
  }
  return { first: next(), next, until, close: () => controller.abort(), ended }
}

async function ask (url: string, headers: Record<string, string>): Promise<unknown> {
  const response = await fetch(url, { headers: { ...OWN_PAGE, ...headers } })
  return response.json()
}

/** A part of a list, as the page is given it. @param at the address of the dashboard */
export async function listPage (at: string, list: ListName, query: Record<string, string> = {}, headers: Record<string, string> = {}): Promise<TaskPage> {
  return await ask(`${at}/lists/${list}?${new URLSearchParams(query)}`, headers) as TaskPage
}

/** The first tasks of each list: those that have not ended, then those that have failed, the longest at it first. */
export async function tasksAt (at: string, headers: Record<string, string> = {}): Promise<TaskView[]> {
  const pages = await Promise.all((['running', 'later', 'waiting', 'failed'] as const).map(list => listPage(at, list, {}, headers)))
  return pages.flatMap(({ tasks }) => tasks)
}

/** The data of a task's page. */
export async function detailsAt (at: string, id: string, headers: Record<string, string> = {}): Promise<TaskDetails> {
  return (await ask(`${at}/tasks/${id}`, headers) as { task: TaskDetails }).task
}

/** Acts on a group as the page does: again, until nothing is left. Returns the number of tasks. */
export async function actOnGroup (post: (path: string) => Promise<GroupResult>, path: string): Promise<number> {
  let { done, next } = await post(path)
  while (next !== null) {
    const result = await post(`${path}?${queryOf(next)}`)
    done += result.done
    next = result.next
  }
  return done
}

export function queryOf (cursor: GroupCursor): string {
  return Object.entries(cursor).map(([name, value]) => `${name}=${value}`).join('&')
}

/** The clock of `Date.now()`, as far ahead as the test says. */
export function aheadClock (t: Test): { later: (ms: number) => void } {
  const { now } = Date
  let ahead = 0
  Date.now = () => now() + ahead
  t.teardown(() => { Date.now = now })
  return { later: ms => { ahead += ms } }
}
