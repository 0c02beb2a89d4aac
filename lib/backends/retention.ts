/** How long settled tasks are kept, in seconds, and how many of them. */
export interface Retention { age: number, count: number }

/** A day for completed tasks, a week for failed ones. */
export const RETAIN = { completed: { age: 86_400, count: 10_000 }, failed: { age: 604_800, count: 10_000 } }
