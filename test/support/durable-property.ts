import fc from 'fast-check'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import './virtual-time'
import { sqlite } from '../../lib/backends/sqlite'
import { durablePrograms, LOCK_DURATION } from './durable-program'
import { DurableRun, type MakeStore } from './durable-run'
import { MemoryServer } from './memory-server'

export const onMemory: MakeStore = ({ writes }, onDelivery, onLost) => {
  const server = new MemoryServer(writes, onDelivery, onLost)
  return { isolates: false, schedules: false, connect: () => server.connect(), end: () => {} }
}

/** In memory where there is such a folder: what the disk takes is no matter here. */
const FOLDER = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

export const onSqlite: MakeStore = () => {
  const folder = mkdtempSync(join(FOLDER, 'durable-'))
  const file = join(folder, 'tasks.db')
  return {
    isolates: true,
    schedules: true,
    connect: () => sqlite({ file, lockDuration: LOCK_DURATION }),
    end: () => rmSync(folder, { recursive: true })
  }
}

// The same programs each time: what makes them fail is a change. PROPERTY_SEED gives others. To repeat a failure, set PROPERTY_SEED and
// PROPERTY_PATH to what its message says.
const { PROPERTY_RUNS, PROPERTY_SEED = '364680492', PROPERTY_PATH } = process.env

/** Runs random programs on stores of one kind. */
export async function assertLaws (t: Test, makeStore: MakeStore, programs: number): Promise<void> {
  const seed = Number(PROPERTY_SEED)
  // An error that nobody catches ends the process before fast-check can name the seed.
  t.comment(`seed ${seed}`)
  let programsRun = 0
  let tasksRun = 0
  await fc.assert(fc.asyncProperty(durablePrograms, async program => {
    tasksRun += await new DurableRun(program, makeStore).execute()
    programsRun++
  }), { seed, numRuns: Number(PROPERTY_RUNS ?? programs), ...PROPERTY_PATH !== undefined && { path: PROPERTY_PATH } })
  t.pass(`${programsRun} programs, ${tasksRun} tasks`)
}
