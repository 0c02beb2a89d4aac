import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { root, run } from './support/package'

/*
 * What TypeScript says of wrong calls. It shows the error of one overload, which has to be about the mistake: nobody who gave no
 * options can make use of an error that talks of them.
 */

const HEAD = `
  import { defineTask, type BackgroundTasks } from '${join(root, 'index')}'
  declare const { add }: BackgroundTasks
  declare function writeLine (text: string): void
  declare function writeLater (text: string, signal: AbortSignal): void
  declare function repeat (text: string, times: number): void
  declare function overloaded (text: string): void
  declare function overloaded (times: number, text: string): void
  declare const perhaps: typeof writeLine | undefined
  const sendMail = defineTask('send-mail', async (_: { to: string }) => {})
`

/** With the end of what TypeScript says. */
const CALLS: Array<[call: string, message: RegExp]> = [
  ['add(sendMail, 1)', /'number' is not assignable to parameter of type '{ to: string; }'\.$/],
  ["add(sendMail, { too: 'ada' })", /'too' does not exist in type '{ to: string; }'\.$/],
  ['add(sendMail)', /the payload is missing[^\n]*$/],
  ["add(sendMail, { to: 'ada' }, { attempts: 3 })", /'attempts' does not exist in type 'Mistake<"too many arguments, and options come first">'\.$/],
  ['add({ attempts: 3 }, sendMail, 1)', /'number' is not assignable to parameter of type '{ to: string; }'\.$/],
  ['add({ attempts: 3 }, sendMail)', /the payload is missing[^\n]*$/],
  ["add({ atempts: 3 }, sendMail, { to: 'ada' })", /'atempts' does not exist in type [^\n]*Did you mean to write 'attempts'\?$/],
  ["add({ signal: true }, sendMail, { to: 'ada' })", /Mistake<"a defined task has ctx\.signal">/],

  ['add(writeLine, 1)', /'number' is not assignable to parameter of type 'string'\.$/],
  ["add(repeat, 'a')", /too few arguments\. Expected 2 or more, but got 1\.$/],
  ["add(writeLine, 'a', { attempts: 3 })", /options come first">'\.$/],
  ["add({ attempts: '3' }, writeLine, 'a')", /'string' is not assignable to type 'number'\.$/],
  ["add({ dedupe: 'x' }, writeLine, 'a')", /'Mistake<"for defined tasks only">'\.$/],
  ['add({ signal: true }, writeLater, 1)', /'number' is not assignable to parameter of type 'string'\.$/],
  ["add({ signal: true }, writeLine, 'a')", /'Mistake<"a function without overloads that takes an AbortSignal last">'\.$/],
  ["add({ signal: true }, repeat, 'a')", /'AbortSignal' is not assignable to type 'number'\.$/],
  ['add(overloaded, true)', /'boolean' is not assignable to type 'string'\.$/],
  ["add(perhaps, 'a')", /'undefined' is not assignable to type '\(text: string\) => void'\.$/],

  ["add(writeLine('a'))", /'void' is not assignable to parameter of type 'Mistake<"pass a task or a function, and do not call it">'\.$/],
  ['add([writeLine])', /'Mistake<"pass a task or a function, and do not call it">'\.$/],
  ['add(Promise.resolve())', /'Mistake<"pass the function, and do not call it">'\.$/],
  ['add({ attempts: 3 })', /'attempts' does not exist in type 'Mistake<"a task or function is missing after the options">'\.$/]
]

test('the error of a wrong `add` names the mistake', async t => {
  const folder = t.testdir({ node_modules: t.fixture('symlink', join(root, 'node_modules')) })
  const files = CALLS.map((_, index) => join(folder, `${index}.ts`))
  files.forEach((file, index) => writeFileSync(file, `${HEAD}${CALLS[index]?.[0]}\n`))
  const projects = join(folder, 'projects.json')
  writeFileSync(projects, JSON.stringify([{ folder, mode: 'node16', files }]))
  const [problems] = JSON.parse(await run(process.execPath, [join(__dirname, 'support/type-check.js'), projects], root)) as [string[]]
  CALLS.forEach(([call, message], index) => {
    const said = problems.filter(problem => problem.startsWith(`/${index}.ts `))
    t.equal(said.length, 1, call)
    t.match(said[0], message, call)
  })
  t.same(problems.filter(problem => !problem.startsWith('/')), [])
})
