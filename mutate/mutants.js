'use strict'

/*
 * The mutants of a source: each is one small change of its text. What the compiler refuses is sorted out later (compiler.js).
 */

const ts = require('typescript')

const { SyntaxKind: Kind } = ts

/** Operators, and what stands in their place. */
const OPERATORS = new Map([
  ['<', ['<=', '>=']], ['<=', ['<', '>']], ['>', ['>=', '<=']], ['>=', ['>', '<']],
  ['===', ['!==']], ['!==', ['===']], ['==', ['!=']], ['!=', ['==']],
  ['&&', ['||']], ['||', ['&&']],
  ['+', ['-']], ['-', ['+']], ['*', ['/']], ['/', ['*']], ['%', ['*']], ['**', ['*']],
  ['&', ['|']], ['|', ['&']], ['<<', ['>>']], ['>>', ['<<']], ['>>>', ['<<']],
  ['+=', ['-=']], ['-=', ['+=']], ['*=', ['/=']], ['/=', ['*=']], ['??=', ['=']], ['||=', ['=']], ['&&=', ['=']]
])

/** Methods, and those that do something else with the same arguments. */
const METHODS = new Map([
  ['some', 'every'], ['every', 'some'], ['startsWith', 'endsWith'], ['endsWith', 'startsWith'], ['min', 'max'], ['max', 'min'], ['find', 'findLast'],
  ['push', 'unshift'], ['shift', 'pop'], ['once', 'on'], ['prependListener', 'on'], ['allSettled', 'all']
])

/** Methods without which their object still has the same type. */
const DROPPED = new Set(['filter', 'slice', 'sort', 'reverse', 'trim', 'concat', 'unref', 'bind', 'toLowerCase', 'toUpperCase', 'catch', 'finally'])

const BOOLEAN = new Set(['<', '<=', '>', '>=', '===', '!==', '==', '!=', '&&', '||', 'in', 'instanceof'])

/**
 * @typedef {{ id: string, file: string, line: number, start: number, end: number, replacement: string }} Mutant
 * @param {string} file path from the root
 * @param {string} text
 * @returns {Mutant[]}
 */
exports.mutantsOf = (file, text) => {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true)
  const mutants = []
  const seen = new Set()

  function replace (start, end, replacement) {
    if (text.slice(start, end) === replacement) return
    const { line, character } = source.getLineAndCharacterOfPosition(start)
    const change = `${start}-${end} ${replacement}`
    if (seen.has(change)) return
    seen.add(change)
    const place = `${file}:${line + 1}:${character + 1}`
    const count = mutants.filter(mutant => mutant.id.startsWith(`${place}:`)).length
    mutants.push({ id: `${place}:${count + 1}`, file, line: line + 1, start, end, replacement })
  }

  const put = (node, replacement) => replace(node.getStart(), node.end, replacement)

  function condition (node) {
    put(node, 'true')
    put(node, 'false')
  }

  function visit (node) {
    if (ts.isTypeNode(node) || isSkipped(node)) return
    const mutate = MUTATORS[node.kind]
    if (mutate !== undefined) mutate(node)
    ts.forEachChild(node, visit)
  }

  const MUTATORS = {
    [Kind.IfStatement]: node => condition(node.expression),
    [Kind.ConditionalExpression]: node => condition(node.condition),
    // An endless loop would teach nothing.
    [Kind.WhileStatement]: node => put(node.expression, 'false'),
    [Kind.DoStatement]: node => put(node.expression, 'false'),
    [Kind.ForStatement]: node => { if (node.condition !== undefined) put(node.condition, 'false') },
    [Kind.BinaryExpression]: binary,
    [Kind.PrefixUnaryExpression]: unary,
    [Kind.PostfixUnaryExpression]: unary,
    [Kind.TrueKeyword]: node => put(node, 'false'),
    [Kind.FalseKeyword]: node => put(node, 'true'),
    // That a limit of thousands is one higher is nobody's business.
    [Kind.NumericLiteral]: node => put(node, node.text === '0' ? '1' : node.text.length > 1 || node.text === '1' ? '0' : String(Number(node.text) + 1)),
    [Kind.StringLiteral]: node => { if (isValue(node)) put(node, node.text === '' ? "'mutant'" : "''") },
    [Kind.NoSubstitutionTemplateLiteral]: node => { if (isValue(node)) put(node, node.text === '' ? '`mutant`' : '``') },
    [Kind.TemplateExpression]: node => put(node, '``'),
    [Kind.ArrayLiteralExpression]: node => { if (node.elements.length !== 0) put(node, '[]') },
    [Kind.ObjectLiteralExpression]: node => {
      if (node.properties.length === 0) return
      put(node, '{}')
      for (const property of node.properties) if (ts.isSpreadAssignment(property)) put(property.expression, '{}')
    },
    [Kind.ExpressionStatement]: statement,
    [Kind.ReturnStatement]: node => { if (node.expression !== undefined) put(node.expression, 'undefined as never') },
    [Kind.ThrowStatement]: node => put(node, ';'),
    [Kind.BreakStatement]: node => put(node, ';'),
    [Kind.ContinueStatement]: node => put(node, ';'),
    [Kind.ArrowFunction]: node => { if (!ts.isBlock(node.body)) put(node.body, 'undefined as never') },
    [Kind.Block]: node => { if (node.statements.length !== 0) put(node, '{}') },
    [Kind.CaseClause]: node => { if (node.statements.length !== 0) replace(node.statements[0].getStart(), node.end, 'break') },
    [Kind.AwaitExpression]: node => put(node, node.expression.getText()),
    [Kind.CallExpression]: call,
    [Kind.PropertyAccessExpression]: chain,
    [Kind.ElementAccessExpression]: chain
  }

  function binary ({ left, operatorToken, right, parent }) {
    const operator = operatorToken.getText()
    for (const other of OPERATORS.get(operator) ?? []) put(operatorToken, other)
    const whole = { getStart: () => left.getStart(), end: right.end }
    if (BOOLEAN.has(operator) && !ts.isIterationStatement(parent, false)) condition(whole)
    if (operator === '??') {
      put(whole, left.getText())
      put(whole, right.getText())
    }
  }

  function unary (node) {
    const { operator, operand } = node
    if (operator === Kind.PlusPlusToken || operator === Kind.MinusMinusToken) {
      const other = operator === Kind.PlusPlusToken ? '--' : '++'
      put(node, ts.isPrefixUnaryExpression(node) ? other + operand.getText() : operand.getText() + other)
    } else {
      put(node, operand.getText())
    }
  }

  function statement (node) {
    const { expression } = node
    if (isSuper(expression)) return
    put(node, ';')
  }

  function call (node) {
    const { expression } = node
    if (node.questionDotToken !== undefined) put(node.questionDotToken, '!')
    if (!ts.isPropertyAccessExpression(expression)) return
    const { name, expression: object } = expression
    if (METHODS.has(name.text)) put(name, METHODS.get(name.text))
    if (DROPPED.has(name.text)) put(node, object.getText())
  }

  function chain (node) {
    if (node.questionDotToken !== undefined) put(node.questionDotToken, ts.isPropertyAccessExpression(node) ? '!.' : '!')
  }

  visit(source)
  return mutants
}

/** Whether a mutant of it would be none of the program's behaviour. */
function isSkipped (node) {
  return ts.isImportDeclaration(node) || ts.isExportDeclaration(node) || ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node) ||
    ts.isModuleDeclaration(node) || ts.isImportEqualsDeclaration(node) || ts.isExportAssignment(node)
}

/** Whether a literal is neither a name nor a path. */
function isValue (node) {
  const { parent } = node
  if (ts.isCallExpression(parent) && (parent.expression.kind === Kind.ImportKeyword || parent.expression.getText() === 'require')) return false
  return !('name' in parent && parent.name === node) && !ts.isExternalModuleReference(parent)
}

function isSuper (node) {
  return ts.isCallExpression(node) && node.expression.kind === Kind.SuperKeyword
}

/** The text with the change made. */
exports.mutate = (text, { start, end, replacement }) => text.slice(0, start) + replacement + text.slice(end)

/** The lines that the change begins and ends in, before and after, each as one line. */
exports.differenceOf = (text, mutant) => {
  const from = text.lastIndexOf('\n', mutant.start - 1) + 1
  const rest = text.indexOf('\n', mutant.end)
  const to = rest === -1 ? text.length : rest
  const flat = part => {
    const line = part.replace(/\s+/g, ' ').trim()
    return line.length <= 200 ? line : `${line.slice(0, 120)} … ${line.slice(-77)}`
  }
  return {
    before: flat(text.slice(from, to)),
    after: flat(text.slice(from, mutant.start) + mutant.replacement + text.slice(mutant.end, to))
  }
}
