import type { JobJson, Queue } from 'bullmq'
import t from 'tap'
import { RedisWriter } from '../lib/backends/bullmq-redis-writer'

/* How jobs become commands of Redis where BullMQ's scripts are not known. That Redis takes them is shown by the tests of the backend. */

interface Commands { runCommand (name: string, args: unknown[]): Promise<unknown> }

type Add = (commands: Commands, job: JobJson, id: string) => Promise<unknown>

const waiting: Add = (commands, job, id) => commands.runCommand('addStandardJob:6', ['wait', 'meta', id, job.data])

/** A queue of BullMQ that adds jobs in the given way, and the commands its client is given. */
async function open (add: Add, answer = async (_name: string, args: unknown[]): Promise<unknown> => args, scripts: string[] | null = ['addStandardJob:6', 'addDelayedJob:6']) {
  const commands: Array<{ name: string, args: unknown[] }> = []
  const scriptsSet: Record<string, { lua: string, numberOfKeys: number }> = {}
  for (const name of scripts ?? []) scriptsSet[name] = { lua: '', numberOfKeys: 2 }
  const client = {
    ...(scripts === null ? {} : { scriptsSet }),
    defineCommand (name: string, definition: { lua: string, numberOfKeys: number }) { scriptsSet[name] = definition },
    runCommand (name: string, args: unknown[]) {
      commands.push({ name, args })
      return answer(name, args)
    }
  }
  const removed: string[] = []
  const queue = {
    getBackend: () => ({ client: Promise.resolve(client), addJobToTransaction: add }),
    async remove (id: string) { removed.push(id) }
  }
  return { commands, removed, writer: await RedisWriter.open(queue as unknown as Queue) }
}

const batch = (...ids: string[]): JobJson[] => ids.map(id => ({ id, name: 'task', data: `data of ${id}`, opts: {}, timestamp: 0 } as JobJson))

t.test('the jobs of several requests are one command, with the keys that they share', async t => {
  const { commands, writer } = await open(waiting, async () => ['a', 'b', 'c'])
  t.same(await writer.add([batch('a', 'b'), batch('c')]), [['a', 'b'], ['c']])
  t.same(commands, [{ name: 'addStandardJob:6:each', args: ['wait', 'meta', 2, 'a', 'data of a', 'b', 'data of b', 'c', 'data of c'] }])
})

t.test('one alone is the command that BullMQ sends', async t => {
  const { commands, writer } = await open(waiting, async () => 'a')
  t.same(await writer.add([batch('a')]), [['a']])
  t.same(commands, [{ name: 'addStandardJob:6', args: ['wait', 'meta', 'a', 'data of a'] }])
})

t.test('no command has more than a hundred jobs and those of one request', async t => {
  const { commands, writer } = await open(waiting, async (_name, args) => args.slice(3).filter((_arg, index) => index % 2 === 0))
  const batches = Array.from({ length: 250 }, (_, n) => batch(String(n)))
  t.same(await writer.add(batches), batches.map(([job]) => [job!.id]))
  t.same(commands.map(({ args }) => (args.length - 3) / 2), [100, 100, 50])
})

t.test('no command has more than a million characters and those of one request', async t => {
  const { commands, writer } = await open(waiting, async (name, args) => name.endsWith(':each') ? [args[3], args[5]] : args[2])
  const batches = Array.from({ length: 5 }, (_, n) => batch(String(n)).map(job => ({ ...job, data: 'x'.repeat(500_000) })))
  t.same(await writer.add(batches), batches.map(([job]) => [job!.id]))
  t.same(commands.map(({ args }) => args.filter(arg => typeof arg === 'string' && arg.length > 1_000).length), [2, 2, 1])
})

t.test('jobs of one request go in their order, whatever their kinds', async t => {
  const { commands, writer } = await open((commands, _job, id) => commands.runCommand(`add${id.startsWith('late') ? 'Delayed' : 'Standard'}Job:6`, ['wait', 'meta', id]), async (_name, args) => args.length === 3 ? args[2] : args.slice(3))
  const ids = ['a', 'late 1', 'late 2', 'b']
  t.same(await writer.add([batch(...ids)]), [ids])
  t.same(commands.map(({ name }) => name), ['addStandardJob:6', 'addDelayedJob:6:each', 'addStandardJob:6'])
})

t.test('what is refused and has a dedupe id is not taken out: it may be the task of somebody else', async t => {
  const { removed, writer } = await open(waiting, async () => { throw new Error('OOM') })
  const [plain, keyed] = batch('plain', 'keyed')
  t.match(await writer.add([[plain!, { ...keyed!, deduplicationId: 'x' }]]), [{ message: 'OOM' }])
  t.same(removed, ['plain'])
})

t.test('an error is for the request that it is about; one of the whole command for all', async t => {
  const { writer, removed } = await open(waiting, async (_name, args) => {
    if (args.includes('none')) throw new Error('READONLY')
    return ['a', new Error('WRONGTYPE'), 'c']
  })
  t.match(await writer.add([batch('a'), batch('b'), batch('c')]), [['a'], { message: 'WRONGTYPE' }, ['c']])
  t.same(removed, ['b'], 'and taken out is what may be left of it')
  t.match(await writer.add([batch('none'), batch('other')]), [{ message: 'READONLY' }, { message: 'READONLY' }])
})

t.test('a request is refused when nothing of it is under way any more: what is taken out then stays out', async t => {
  let answered = false
  const { writer } = await open((commands, job, id) => commands.runCommand(`add${id === 'late' ? 'Delayed' : 'Standard'}Job:6`, [job]), async name => {
    if (name.startsWith('addStandardJob')) throw new Error('WRONGTYPE')
    await new Promise(resolve => { setTimeout(resolve, 20) })
    answered = true
  })
  t.match(await writer.add([batch('fails', 'late')]), [{ message: 'WRONGTYPE' }])
  t.ok(answered)
})

t.test('a BullMQ that takes its time, or has other scripts, or another client, costs a command for each job', async t => {
  const late: Add = async (commands, job, id) => {
    await null
    return waiting(commands, job, id)
  }
  for (const [add, scripts] of [[late, undefined], [waiting, ['otherScript:6']], [waiting, null]] as const) {
    const { commands, writer } = await open(add, async (_name, args) => args[2], scripts as string[] | null | undefined)
    t.same(await writer.add([batch('a', 'b'), batch('c')]), [['a', 'b'], ['c']])
    t.same(commands.map(({ name }) => name), Array(3).fill('addStandardJob:6'))
  }
})
