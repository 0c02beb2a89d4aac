/** A running attempt that can be stopped. */
export interface StoppableAttempt {
  /** Whether the attempt waits for a thread, so that nothing of it runs. */
  readonly waits: boolean
  /** Whether the function has a signal to listen to. */
  readonly listens: boolean
  /** Tells the function to stop, and still waits for its end. */
  abort (reason: unknown): void
  /** Tells the function to stop, and waits no longer for it. */
  abandon (reason: unknown): void
}
