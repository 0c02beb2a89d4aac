/**
 * An error that a task throws when further attempts are pointless: the task fails at once, whatever `attempts` says.
 *
 * Recognized by its `name`, as BullMQ recognizes its class of the same name. So an error of either class counts, and one from a thread
 * or from another copy of this package.
 */
export class UnrecoverableError extends Error {
  override readonly name = 'UnrecoverableError'
}

export function isUnrecoverable (error: unknown): boolean {
  try {
    return (error as Error | null | undefined)?.name === 'UnrecoverableError'
  } catch {
    // Reading the name has thrown.
    return false
  }
}
