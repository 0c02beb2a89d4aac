import { createHash } from 'node:crypto'
import { show } from '../shared/show'

/* Groups of failed tasks: the same name and, but for numbers and ids in it, the same error. */

export interface Group {
  /** The same in every process. */
  readonly id: string
  readonly name: string
  /** The error of the newest task. */
  readonly error: string
  count: number
  /** The time at which the newest task failed, in ms of `Date.now()`. */
  last: number | null
}

const MAX_NAME_CHARS = 100
const MAX_ERROR_CHARS = 200

/** The parts of messages that differ each time: UUIDs, long hexadecimal numbers, numbers. */
const VARYING = /[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}|\b(?=[a-f]*\d)[\da-f]{12,}\b|\d+/gi

/** @param line the error, by {@link lineOf} */
export function groupOf (name: string, line: string): Omit<Group, 'count' | 'last'> {
  const shown = { name: clipName(name), error: firstLine(line) }
  const key = `${shown.name}\n${shown.error.replace(VARYING, '0')}`
  return { ...shown, id: createHash('sha1').update(key).digest('hex').slice(0, 12) }
}

/** An error without its stack, which is slow to format. Reading the error may throw: tasks can throw anything. */
export function lineOf (error: unknown): string {
  try {
    if (!(error instanceof Error)) return show(error, { depth: 1, maxArrayLength: 10, maxStringLength: 500, breakLength: Infinity, compact: true })
    const message = String(error.message)
    const name = String(error.name)
    return message === '' ? name : `${name}: ${message}`
  } catch {
    return 'an error that cannot be shown'
  }
}

export function firstLine (text: string): string {
  return clip(text.split('\n', 1)[0] as string, MAX_ERROR_CHARS)
}

/** A name, or a request's id, as the page shows it. */
export function clipName (name: string): string {
  return clip(name, MAX_NAME_CHARS)
}

export function clip (text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text
}
