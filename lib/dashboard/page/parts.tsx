import type { ComponentChildren } from 'preact'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { ProgressView, TaskView } from '../protocol'
import { addressOf } from './model/route'

/** Milliseconds for which the outcome of an action is shown, and between two announcements of failures. */
const PAUSE_MS = 10_000

/** A message about what has been done. It takes the focus of a button that has gone with its row. */
export function Outcome () {
  const [text, setText] = useState('')
  const element = useRef<HTMLParagraphElement>(null)
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>
    report = (text, takesFocus) => {
      setText(text)
      clearTimeout(timer)
      timer = setTimeout(() => setText(''), PAUSE_MS)
      if (takesFocus) element.current?.focus({ preventScroll: true })
    }
  }, [])
  return <p id='outcome' role='status' tabIndex={-1} ref={element}>{text}</p>
}

let report: (text: string, takesFocus: boolean) => void = () => {}

export interface ActionProps {
  label: string
  /** The text for a screen reader: the task. */
  title: string
  /** The question before the action, and the text of its button; without one the action comes at once. */
  question?: string
  yes?: string
  /** Resolves with what is to be said of it. */
  act: () => Promise<string>
  quiet?: boolean
}

/** A button that is busy is not disabled, which would lose the focus: it only says so. */
export function Action ({ label, title, question, yes = label, act, quiet = false }: ActionProps) {
  const [asking, setAsking] = useState(false)
  const [busy, setBusy] = useState(false)
  const group = useRef<HTMLSpanElement>(null)
  const isMoved = useRef(false)
  // Before the next key: who types fast must not lose one.
  useLayoutEffect(() => {
    if (isMoved.current) group.current?.querySelector('button')?.focus({ preventScroll: true })
    isMoved.current = true
  }, [asking])
  async function run (): Promise<void> {
    if (busy) return
    setBusy(true)
    const hadFocus = group.current?.contains(document.activeElement) === true
    const text = await act().catch((error: Error) => `${label}: ${error.message}`)
    setBusy(false)
    setAsking(false)
    report(text, hadFocus)
  }
  if (asking) {
    return (
      <span class='asking' ref={group} role='group' aria-label={question}>
        <span>{question}</span>
        <button type='button' class='danger' aria-disabled={busy} onClick={run}>{busy ? 'Working …' : yes}</button>
        <button type='button' class='quiet' onClick={() => setAsking(false)}>No</button>
      </span>
    )
  }
  return (
    <span ref={group}>
      <button type='button' class={quiet ? 'quiet' : ''} aria-label={title} aria-disabled={busy} onClick={question === undefined ? run : () => setAsking(true)}>{busy ? 'Working …' : label}</button>
    </span>
  )
}

export function Progress ({ name, progress }: { name: string, progress: ProgressView | null }) {
  if (progress === null) return null
  const { percent, text } = progress
  if (percent === null) return <span class='progress'>{text}</span>
  return (
    <span class='progress'>
      <progress max={100} value={percent} aria-label={`Progress of ${name}`} />
      <span>{text.length > 6 ? text : `${Math.round(percent)} %`}</span>
    </span>
  )
}

export function TaskLink ({ task, children }: { task: Pick<TaskView, 'id' | 'name'>, children?: ComponentChildren }) {
  return <a class='name' href={addressOf({ page: 'task', id: task.id })}>{children ?? task.name}</a>
}

/** Whether a task runs, and has given no sign of life for too long. */
export function isStuck ({ silentSince }: TaskView, now: number, stuckAfter: number): boolean {
  return silentSince !== null && now - silentSince > stuckAfter
}

export function whereOf (task: TaskView): string {
  return (task.requestId === null ? 'added by the application' : `request ${task.requestId}`) + (task.stored ? ', stored' : '')
}
