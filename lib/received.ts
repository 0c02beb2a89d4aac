import { inspect } from 'node:util'

/** A value as an error message shows it: short, on one line. */
export function received (value: unknown): string {
  const text = inspect(value, { depth: 1, maxArrayLength: 3, maxStringLength: 60, breakLength: Infinity, compact: true })
  // An error is shown with its stack, below its message.
  const line = text.replace(/\n.*/s, ' …')
  return line.length > 120 ? `${line.slice(0, 119)}…` : line
}

/** What was thrown, as a part of a message. */
export function textOf (thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : received(thrown)
}

/** What an error that another library threw says. */
export function reasonOf (error: unknown): unknown {
  // What several addresses of one host refuse has no message of its own.
  return error instanceof Error ? error.message || (error as { code?: unknown }).code : error
}
