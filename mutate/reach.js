'use strict'

/*
 * Which statements a test file reaches, in whatever process or thread: each statement of the sources tells of its first run. It is told
 * at once, so that what a killed process has run counts too.
 */

const { createHash } = require('node:crypto')
const ts = require('typescript')

/** Sources say `require(TELLER)(their path)`, and get the function to call with a statement's number. */
const TELLER = require.resolve('./teller.js')

/**
 * The statements of a source: where each begins and ends, and a key that outlives changes elsewhere in the file. The first stands for
 * the file itself.
 * @returns {{ start: number, end: number, key: string }[]}
 */
function statementsOf (file, text, insertions) {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true)
  const statements = [{ start: 0, end: text.length, key: file }]
  const counts = new Map()

  function add (node, names) {
    const head = text.slice(node.getStart(), node.end).replace(/\s+/g, ' ').slice(0, 80)
    const name = createHash('sha1').update(`${names} ${head}`).digest('base64url').slice(0, 10)
    const count = (counts.get(name) ?? 0) + 1
    counts.set(name, count)
    statements.push({ start: node.getStart(), end: node.end, key: `${file} ${name} ${count}` })
    return statements.length - 1
  }

  function insert (at, code) {
    insertions?.push({ at, code })
  }

  function around (node, before, after) {
    insert(node.getStart(), before)
    insert(node.end, after)
  }

  function visit (node, names) {
    if (ts.isTypeNode(node) || ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node) || ts.isModuleDeclaration(node)) return
    const inside = node.name !== undefined && ts.isIdentifier(node.name) ? `${names}.${node.name.text}` : names
    const { parent } = node
    if (parent !== undefined && ts.isStatement(node) && !ts.isBlock(node) && !ts.isFunctionDeclaration(node)) {
      if (ts.isBlock(parent) || ts.isCaseOrDefaultClause(parent)) insert(node.getStart(), `__reached(${add(node, names)});`)
      else if (!ts.isSourceFile(parent) && !(ts.isIfStatement(node) && parent.elseStatement === node) && !ts.isLabeledStatement(parent)) around(node, `{__reached(${add(node, names)});`, '}')
    } else if (parent !== undefined && isExpressionOfItsOwn(node, parent)) {
      around(node, `(__reached(${add(node, names)}),(`, '))')
    }
    ts.forEachChild(node, child => visit(child, inside))
  }

  visit(source, '')
  return statements
}

/** Whether an expression runs at a time of its own: the body of an arrow function, the first value of a class's field. */
function isExpressionOfItsOwn (node, parent) {
  return (ts.isArrowFunction(parent) && parent.body === node && !ts.isBlock(node)) ||
    (ts.isPropertyDeclaration(parent) && parent.initializer === node && !ts.isFunctionLike(node) && !ts.isClassExpression(node))
}

exports.statementsOf = (file, text) => statementsOf(file, text, null)

/** The source with its statements telling, on the lines where they were. */
exports.telling = (file, text) => {
  const insertions = []
  statementsOf(file, text, insertions)
  const closes = ({ code }) => code === '}' || code === '))'
  // At one place what ends comes before what begins; the outer one begins first and ends last, and has been visited first.
  const sorted = insertions.map((insertion, index) => ({ ...insertion, index: closes(insertion) ? -index : index }))
    .sort((a, b) => a.at - b.at || Number(closes(b)) - Number(closes(a)) || a.index - b.index)
  let result = `const __reached = require(${JSON.stringify(TELLER)})(${JSON.stringify(file)});`
  let from = 0
  for (const { at, code } of sorted) {
    result += text.slice(from, at) + code
    from = at
  }
  return result + text.slice(from)
}

/** The keys of the statements that a mutant is in, the innermost first. */
exports.keysAround = (statements, { start, end }) => statements
  .filter(statement => statement.start <= start && end <= statement.end)
  .sort((a, b) => (a.end - a.start) - (b.end - b.start))
  .map(statement => statement.key)
