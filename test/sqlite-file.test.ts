import { chmodSync, copyFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import type { Database, NodeSqlite } from '../lib/backends/sqlite/node-sqlite'
import { sqlite } from '../lib/backends/sqlite'
import { checkHeader, prepareSchema } from '../lib/backends/sqlite/file'
import { createApp, signal } from './support/server'
import { newFile, noSqlite, rawConnection } from './support/sqlite'
import { until } from './support/until'

// The file as an application finds it at the start.

const task = defineTask('task', async (n: number) => n)

async function startsWith (t: Test, file: string) {
  const { app } = await createApp(t, { tasks: [task], backend: sqlite({ file, busyTimeout: 200 }) })
  await app.ready()
  return app
}

async function isRefused (t: Test, file: string, message: RegExp): Promise<void> {
  const before = readFileSync(file)
  await t.rejects(startsWith(t, file), { code: 'FST_BGT_BACKEND_FAILED', message }, String(message))
  t.ok(readFileSync(file).equals(before), 'it is as it was')
}

/** Whether `node:sqlite` does: only so a file can be looked at without a trace beside it. */
const takesUrls = noSqlite === false && !/^v22\.1[34]\./.test(process.version)

/** A file with some tasks in it, which nobody has open. */
async function filled (t: Test): Promise<string> {
  const file = newFile(t)
  const app = await startsWith(t, file)
  for (let i = 0; i < 20; i++) app.backgroundTasks.add({ delay: 60_000, name: 'x'.repeat(500) }, task, i)
  await app.close()
  return file
}

test('a file is made, and is alone when nobody has it open', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const app = await startsWith(t, file)
  t.equal(await app.backgroundTasks.add(task, 1).settled(), 'completed')
  await app.close()
  t.ok(existsSync(file))
  t.notOk(existsSync(`${file}-wal`))
})

test('a file that is made is for its owner alone, and so is what stands beside it; one that is there keeps its mode', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8)
  let app = await startsWith(t, file)
  await app.backgroundTasks.add(task, 1).settled()
  for (const path of [file, `${file}-wal`, `${file}-shm`]) t.equal(modeOf(path), '600', path)
  await app.close()
  chmodSync(file, 0o640)
  app = await startsWith(t, file)
  await app.backgroundTasks.add(task, 1).settled()
  for (const path of [file, `${file}-wal`, `${file}-shm`]) t.equal(modeOf(path), '640', path)
  await app.close()
})

test('an empty file is filled', { skip: noSqlite }, async t => {
  const file = newFile(t)
  writeFileSync(file, '')
  const app = await startsWith(t, file)
  t.equal(await app.backgroundTasks.add(task, 1).settled(), 'completed')
})

test('what is no file of ours is refused and left untouched', { skip: noSqlite }, async t => {
  const text = newFile(t)
  writeFileSync(text, 'dear diary')
  await isRefused(t, text, /received .*\.db is not a file of SQLite; it was left untouched/)
  const other = newFile(t)
  const database = rawConnection(other)
  database.exec('PRAGMA journal_mode = WAL; CREATE TABLE tasks (id TEXT)')
  database.close()
  await isRefused(t, other, /belongs to another application; it was left untouched/)
  if (takesUrls) t.same(readdirSync(dirname(other)).sort(), [other, text].map(file => basename(file)).sort(), 'nothing is put beside it')
  await t.rejects(startsWith(t, dirname(other)), { code: 'FST_BGT_BACKEND_FAILED', message: /is a folder/ })
  await t.rejects(startsWith(t, `${dirname(other)}/none/x.db`), { code: 'FST_BGT_BACKEND_FAILED', message: /none\/x\.db cannot be used: unable to open/, cause: { cause: { code: 'ERR_SQLITE_ERROR' } } })
  // Before Node 22.15, its own error, which also says of which file it is.
  await t.rejects(startsWith(t, `${other}/x.db`), { code: 'FST_BGT_BACKEND_FAILED', message: /\/x\.db cannot be used: unable to open|ENOTDIR.*\/x\.db/ })
})

test('a path that looks like a URL is a path: the file is looked at as any other', { skip: noSqlite }, async t => {
  const folder = dirname(newFile(t))
  const cwd = process.cwd()
  t.teardown(() => process.chdir(cwd))
  process.chdir(folder)
  const app = await startsWith(t, 'file:tasks.db?mode=memory')
  await app.close()
  t.same(readdirSync(folder), ['file:tasks.db?mode=memory'])
  writeFileSync('file:tasks.db', 'dear diary')
  await t.rejects(startsWith(t, 'file:tasks.db'), { code: 'FST_BGT_BACKEND_FAILED', message: /is not a file of SQLite/ })
})

test('a file of a newer version is refused and left untouched', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const newer = rawConnection(file)
  newer.exec('PRAGMA user_version = 2')
  // Written, but not in the header yet.
  t.equal(readFileSync(file).readUInt32BE(60), 1)
  await isRefused(t, file, /has schema version 2, and this version .* knows 1; it was left untouched/)
  newer.close()
  t.equal(readFileSync(file).readUInt32BE(60), 2)
  await isRefused(t, file, /has schema version 2/)
})

test('a damaged file is refused and left untouched', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const bytes = readFileSync(file)
  t.ok(bytes.length > 8 * 4096)
  const table = Buffer.from(bytes).fill(0xAA, 4096, 4096 * 3)
  writeFileSync(file, table)
  await isRefused(t, file, /\.db is damaged: .*; it was left untouched/)
  const schema = Buffer.from(bytes).fill(0xAA, 100, 4096)
  writeFileSync(file, schema)
  await isRefused(t, file, /\.db is damaged: .*malformed/)
  writeFileSync(file, bytes)
  await startsWith(t, file)
})

test('what a crash has left half done is undone', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const database = rawConnection(file)
  database.exec('PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN; UPDATE tasks SET due = 1')
  const crashed = newFile(t)
  copyFileSync(file, crashed)
  copyFileSync(`${file}-journal`, `${crashed}-journal`)
  database.exec('ROLLBACK')
  database.close()
  const app = await startsWith(t, crashed)
  await app.close()
  const count = rawConnection(crashed).prepare('SELECT COUNT(*) AS count FROM tasks WHERE due = 1').get()
  t.match(count, { count: 0 })
})

test('a start waits for another process that has the file, but not for ever', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const other = rawConnection(file)
  other.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE')
  await isRefused(t, file, /database is locked/)
  const writer = rawConnection(await filled(t))
  writer.exec('BEGIN IMMEDIATE')
  await isRefused(t, writer.prepare('PRAGMA database_list').get()!.file as string, /database is locked/)
  writer.close()
  const { app } = await createApp(t, { tasks: [task], backend: sqlite({ file }) })
  const { promise: waited, resolve } = signal()
  setTimeout(resolve, 100)
  waited.then(() => { other.close() })
  await app.ready()
  t.equal(await app.backgroundTasks.add(task, 1).settled(), 'completed')
})

test('an application that does not wait so long for its start lets go of the file', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const other = rawConnection(file)
  other.exec('BEGIN IMMEDIATE')
  const backend = sqlite({ file, busyTimeout: 60_000 })
  const { app } = await createApp(t, { tasks: [task], backend, storeTimeout: 100 })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_BACKEND_FAILED', message: /no answer within 100 ms/ })
  other.exec('COMMIT')
  other.close()
  // The last one that closes it removes these.
  await until('the file is closed', () => !existsSync(`${file}-wal`))
})

/** The locks that this process has on a file. */
function locksOn (file: string): number {
  const owner = new RegExp(`^\\d+: POSIX .* ${process.pid} \\S+:${statSync(file).ino} `, 'gm')
  return readFileSync('/proc/locks', 'latin1').match(owner)?.length ?? 0
}

const noLocks = process.platform === 'linux' ? noSqlite : 'only Linux tells in /proc/locks who has locked a file'

test('a second application of the same process leaves the first one its locks', { skip: noLocks }, async t => {
  const file = await filled(t)
  await startsWith(t, file)
  t.equal(locksOn(file), 1)
  const second = await startsWith(t, file)
  t.equal(locksOn(file), 1)
  await second.close()
  t.equal(locksOn(file), 1)
})

test('a crash in the middle of a checkpoint is no damage', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const database = rawConnection(file)
  database.exec("PRAGMA wal_autocheckpoint = 0; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO tasks (id, task, state, due) SELECT i, hex(randomblob(500)), 'failed', 0 FROM n")
  const crashed = newFile(t)
  const before = readFileSync(file)
  copyFileSync(`${file}-wal`, `${crashed}-wal`)
  database.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  database.close()
  // The first page tells of pages that are not there yet.
  readFileSync(file).copy(before, 0, 0, 4096)
  t.ok(readFileSync(file).length > before.length)
  writeFileSync(crashed, before)
  const app = await startsWith(t, crashed)
  await app.close()
  t.match(rawConnection(crashed).prepare("SELECT COUNT(*) AS count FROM tasks WHERE state = 'failed'").get(), { count: 200 })
})

test('a file that may only be read is refused at the start, not with the first task', { skip: noSqlite }, async t => {
  const file = await filled(t)
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite') as unknown as NodeSqlite
  const database = new DatabaseSync(file, { readOnly: true })
  t.teardown(() => database.close())
  t.throws(() => prepareSchema(database, file), /attempt to write a readonly database/)
})

test('where the table cannot be made, the error says why', { skip: noSqlite }, async t => {
  const database = rawConnection(newFile(t))
  t.teardown(() => database.close())
  const full = {
    prepare: (sql: string) => database.prepare(sql),
    exec (sql: string) {
      if (!sql.includes('CREATE')) return database.exec(sql)
      // As SQLite itself does where the disk is full.
      database.exec('ROLLBACK')
      throw new Error('database or disk is full')
    }
  }
  t.throws(() => prepareSchema(full as Database, 'x'), { message: 'database or disk is full' })
})

test('where SQLite takes no URL, as before Node 22.15, a file is looked at all the same', { skip: noSqlite }, async t => {
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite') as unknown as NodeSqlite
  const sqlite = {
    DatabaseSync: class extends DatabaseSync {
      constructor (file: string, options?: { readOnly?: boolean }) {
        super(file.replace(/^file:/, './file:/'), options)
      }
    }
  }
  t.equal(checkHeader(sqlite, await filled(t)), true)
  const file = newFile(t)
  t.equal(checkHeader(sqlite, file), false)
  writeFileSync(file, 'dear diary')
  t.throws(() => checkHeader(sqlite, file), /is not a file of SQLite/)
})

test('what a long reader has made of the write-ahead log goes when it has gone', { skip: noSqlite }, async t => {
  const file = newFile(t)
  const large = defineTask('large', async (text: string) => text.length)
  const { app } = await createApp(t, { tasks: [large], backend: sqlite({ file }), worker: false })
  await app.ready()
  const reader = rawConnection(file)
  t.teardown(() => reader.close())
  reader.exec('BEGIN; SELECT * FROM tasks')
  const size = () => statSync(`${file}-wal`).size
  const store = async (count: number, text: string) => {
    for (let i = 0; i < count; i++) app.backgroundTasks.add(large, text)
    await app.backgroundTasks.flush()
  }
  for (let i = 0; i < 12; i++) await store(20, 'x'.repeat(100_000))
  t.ok(size() > 20_000_000, `${size()} bytes while it reads`)
  reader.exec('COMMIT')
  // The first write copies the log to the file, the next one begins it anew.
  for (let i = 0; i < 2; i++) await store(1, '')
  t.ok(size() <= 8_388_608, `${size()} bytes afterwards`)
})
