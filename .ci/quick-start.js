'use strict'

/*
 * node .ci/quick-start.js TARBALL: a new project that installs the package and Fastify with npm. The README's quick start runs in it: in CommonJS, as an
 * ES module, in TypeScript after compiling and, where this Node runs TypeScript, as it is.
 */

const assert = require('node:assert/strict')
const { execFileSync, spawn } = require('node:child_process')
const { once } = require('node:events')
const { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join, resolve } = require('node:path')
const { createInterface } = require('node:readline')
const { setTimeout: sleep } = require('node:timers/promises')

const DEADLINE_MS = 60_000

const root = resolve(__dirname, '..')
const tarball = resolve(process.argv[2])
const project = mkdtempSync(join(tmpdir(), 'quick-start-'))

/** Starts the server, sends it a request, and waits for what its task writes. */
async function tryServer (file) {
  const log = join(project, 'log.txt')
  rmSync(log, { force: true })
  const server = spawn(process.execPath, [file], { cwd: project, stdio: ['ignore', 'pipe', 'inherit'], timeout: DEADLINE_MS })
  try {
    let url
    for await (const line of createInterface(server.stdout)) {
      url = /listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1]
      if (url !== undefined) break
    }
    assert.ok(url !== undefined, `${file} listens`)
    server.stdout.resume()
    const response = await fetch(`${url}/send-notification/ada@example.com`, { method: 'POST' })
    assert.deepEqual(await response.json(), { message: 'Notification sent in the background' })
    const end = Date.now() + DEADLINE_MS
    while (written(log) !== 'notification for ada@example.com: some notification\n') {
      assert.ok(Date.now() < end, `${file}: the task has written '${written(log)}'`)
      await sleep(20)
    }
  } finally {
    if (server.exitCode === null && server.kill()) await once(server, 'exit')
  }
  console.log(`ok: ${file}`)
}

function written (log) {
  try {
    return readFileSync(log, 'utf8')
  } catch {
    return ''
  }
}

async function main () {
  writeFileSync(join(project, 'package.json'), '{ "private": true }')
  // As a script of this project npm would find the settings of this project.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)))
  execFileSync('npm', ['install', '--no-audit', '--no-fund', '--silent', 'fastify', tarball], { cwd: project, env, stdio: 'inherit' })
  const files = ['quick-start.cjs', 'quick-start.mjs', 'quick-start.mts']
  for (const file of files) {
    const text = readFileSync(join(root, 'examples', file), 'utf8')
    assert.ok(text.includes('port: 3000'))
    writeFileSync(join(project, file), text.replace('port: 3000', 'port: 0'))
  }
  mkdirSync(join(project, 'node_modules/@types'), { recursive: true })
  symlinkSync(join(root, 'node_modules/@types/node'), join(project, 'node_modules/@types/node'))
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  execFileSync(process.execPath, [tsc, '--module', 'nodenext', '--target', 'es2022', '--types', 'node', '--strict', '--outDir', 'out', 'quick-start.mts'], { cwd: project, stdio: 'inherit' })
  if (!process.features.typescript) files.pop()
  for (const file of [...files, 'out/quick-start.mjs']) await tryServer(file)
}

main().finally(() => rmSync(project, { recursive: true, force: true }))
