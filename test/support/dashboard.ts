import type { Test } from 'tap'
import type { Snapshot } from '../../lib/dashboard/source'

export type Told = Snapshot

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

/** It leaves when the test ends. */
export async function openStream (t: Test, url: string, headers: Record<string, string> = {}): Promise<Viewer> {
  const controller = new AbortController()
  t.teardown(() => controller.abort())
  const response = await fetch(url, { headers, signal: controller.signal })
  t.equal(response.status, 200)
  t.equal(response.headers.get('content-type'), 'text/event-stream')
  const waiting: Told[] = []
  let wake = () => {}
  async function read (): Promise<boolean> {
    let text = ''
    try {
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        text += chunk
        const events = text.split('\n\n')
        text = events.pop() as string
        for (const event of events) waiting.push(JSON.parse(/^data: (.*)$/m.exec(event)![1] as string) as Told)
        wake()
      }
      return true
    } catch {
      return false
    }
  }
  const ended = read()
  async function next (): Promise<Told> {
    while (waiting.length === 0) await new Promise<void>(resolve => { wake = resolve })
    return waiting.shift() as Told
  }
  async function until (isSo: (told: Told) => boolean): Promise<Told> {
    for (;;) {
      const told = await next()
      if (isSo(told)) return told
    }
  }
  return { first: next(), next, until, close: () => controller.abort(), ended }
}
