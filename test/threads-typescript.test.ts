import { basename } from 'node:path'
import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled } from './support/server'
import { moduleFile } from './support/threads'

/** Node has types removed without a loader from 22.18 and 23.6 on, and says so. */
const noTypeScript: string | false = (process.features as { typescript?: unknown }).typescript
  ? false
  : `Node ${process.version} loads no TypeScript: 22.18 and later do`

test('a module in TypeScript runs on a thread, as an ES module and as CommonJS, and imports another one', { skip: noTypeScript }, async t => {
  const imported = moduleFile(t, 'export interface Pair { a: number, b: number }\nexport const sum = ({ a, b }: Pair): number => a + b\n', 'mts')
  const esModule = moduleFile(t, `import { type Pair, sum } from './${basename(imported)}'\nexport default async (pair: Pair): Promise<number> => sum(pair)\n`, 'mts')
  const commonJs = moduleFile(t, 'module.exports = ({ a, b }: { a: number, b: number }): number => a + b\n', 'cts')
  for (const file of [esModule, commonJs]) {
    const task = defineTask<{ a: number, b: number }, number>('sum', file)
    const { app } = await createApp(t, { tasks: [task] })
    const { id } = app.backgroundTasks.add(task, { a: 20, b: 22 })
    await settled(app, { completed: 1 })
    t.match(await app.backgroundTasks.find(id), { result: 42 }, file)
  }
})

test('TypeScript that is more than types is refused at the start', { skip: noTypeScript }, async t => {
  const file = moduleFile(t, 'enum Size { small }\nexport default (): number => Size.small\n', 'mts')
  const { app } = await createApp(t, { tasks: [defineTask('size', file)] })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_BGT_INVALID_MODULE' })
})
