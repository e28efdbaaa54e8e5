// Shows /openapi.json. Everything is made by createElement and textContent, so no text of the document becomes markup.
'use strict';

const METHODS = ['get', 'put', 'post', 'delete', 'patch'];

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// The little Markdown that doc comments have: paragraphs, tables, `code`.
function prose(text) {
  return (text || '').split(/\n\s*\n/).filter(Boolean).map((block) => {
    const rows = block.split('\n').filter((line) => line.startsWith('|'));
    if (rows.length < 2) return el('p', {}, inline(block));
    const cells = (row) => row.split('|').slice(1, -1).map((cell) => cell.trim());
    const line = (row, tag) => el('tr', {}, cells(row).map((cell) => el(tag, {}, inline(cell))));
    return el('div', { class: 'wide' }, el('table', {}, line(rows[0], 'th'), rows.slice(2).map((row) => line(row, 'td'))));
  });
}

function inline(text) {
  return text.split('`').map((part, i) => (i % 2 ? el('code', {}, part) : part));
}

function json(value) {
  return el('pre', { tabindex: '0' }, JSON.stringify(value, null, 2));
}

function nameOf(ref) {
  return ref.split('/').pop();
}

// A schema in a few words, with links to the named ones.
function type(schema) {
  if (!schema) return ['anything'];
  if (schema.$ref) return [el('a', { href: '#schema-' + nameOf(schema.$ref) }, nameOf(schema.$ref))];
  const choices = schema.oneOf || schema.anyOf || schema.allOf;
  if (choices) return choices.flatMap((choice, i) => (i ? [' or ', ...type(choice)] : type(choice)));
  const kinds = [].concat(schema.type || 'anything');
  const words = kinds.flatMap((kind, i) => {
    const word = kind === 'array' ? ['list of ', ...type(schema.items)] : [schema.format && kind === 'string' ? schema.format : kind];
    return i ? [' or ', ...word] : word;
  });
  const facts = [];
  if (schema.enum) facts.push(schema.enum.join(' · '));
  for (const [key, word] of [['minimum', '≥'], ['maximum', '≤'], ['maxLength', 'characters ≤'], ['maxItems', 'items ≤']]) {
    if (schema[key] !== undefined) facts.push(word + ' ' + schema[key]);
  }
  return facts.length ? [...words, ' (' + facts.join(', ') + ')'] : words;
}

function fields(rows) {
  return el('dl', {}, rows.map(([name, required, kind, text]) => [
    el('dt', {}, el('code', {}, name), ' ', el('span', { class: 'type' }, kind), required ? el('b', {}, ' required') : null),
    el('dd', {}, prose(text)),
  ]));
}

function properties(schema) {
  const required = schema.required || [];
  return fields(Object.entries(schema.properties || {}).map(([name, property]) =>
    [name, required.includes(name), type(property), property.description]));
}

function shape(schema) {
  if (schema.properties) return properties(schema);
  const choices = schema.oneOf || schema.anyOf;
  if (choices) return choices.map((choice) => [prose(choice.description), shape(choice)]).flat();
  return el('p', { class: 'type' }, type(schema));
}

function examples(content) {
  const named = Object.values(content.examples || {}).map((example) => [el('p', {}, inline(example.summary || '')), json(example.value)]);
  return content.example === undefined ? named.flat() : [json(content.example)];
}

function body(content) {
  return Object.entries(content || {}).map(([media, one]) =>
    [el('p', { class: 'type' }, media, ': ', type(one.schema)), examples(one)]).flat();
}

function deref(spec, thing) {
  return thing.$ref ? thing.$ref.split('/').slice(1).reduce((place, key) => place[key], spec) : thing;
}

function answer(spec, status, response) {
  const headers = Object.entries(response.headers || {}).map(([name, header]) => [name, false, [], deref(spec, header).description]);
  return el('details', { class: 'answer s' + status[0] },
    el('summary', {}, el('b', {}, status), ' ', inline(response.description || '')),
    body(response.content),
    headers.length ? [el('h4', {}, 'Headers'), fields(headers)] : []);
}

function operation(spec, path, method, op) {
  const callers = (op.security || []).flatMap((one) => Object.keys(one));
  const parameters = (op.parameters || []).map((one) => [one.name, one.required, [...type(one.schema), ' in ' + one.in], one.description]);
  return el('section', { id: op.operationId },
    el('h3', {}, op.summary || op.operationId),
    el('p', { class: 'route' }, el('b', { class: method }, method.toUpperCase()), ' ', el('code', {}, path)),
    prose(op.description),
    callers.length ? el('p', { class: 'type' }, 'Called with: ', callers.flatMap((name, i) =>
      [i ? ' or ' : '', el('a', { href: '#scheme-' + name }, name)])) : null,
    parameters.length ? [el('h4', {}, 'Parameters'), fields(parameters)] : [],
    op.requestBody ? [el('h4', {}, 'Body'), prose(op.requestBody.description), body(op.requestBody.content)] : [],
    el('h4', {}, 'Answers'),
    Object.entries(op.responses).map(([status, response]) => answer(spec, status, response)));
}

function show(spec) {
  const nav = document.querySelector('nav');
  const main = document.querySelector('main');
  main.replaceChildren(
    el('h1', {}, spec.info.title + ' ' + spec.info.version),
    ...prose(spec.info.description),
    el('p', {}, el('a', { href: '/openapi.json' }, 'openapi.json')));
  const group = (title, text) => {
    main.append(el('h2', {}, title), ...prose(text));
    const list = el('ul');
    nav.append(el('h2', {}, title), list);
    return (id, words, section) => {
      main.append(section);
      list.append(el('li', {}, el('a', { href: '#' + id }, words)));
    };
  };
  for (const tag of spec.tags) {
    const add = group(tag.name, tag.description);
    for (const [path, item] of Object.entries(spec.paths)) {
      for (const method of METHODS) {
        const op = item[method];
        if (op && op.tags.includes(tag.name)) add(op.operationId, op.summary, operation(spec, path, method, op));
      }
    }
  }
  const schemes = group('Who calls', '');
  for (const [name, scheme] of Object.entries(spec.components.securitySchemes)) {
    const id = 'scheme-' + name;
    const how = [scheme.type, scheme.scheme, scheme.in, scheme.name].filter(Boolean).join(' ');
    schemes(id, name, el('section', { id }, el('h3', {}, name), el('p', { class: 'type' }, how), prose(scheme.description)));
  }
  const schemas = group('Schemas', '');
  for (const [name, schema] of Object.entries(spec.components.schemas)) {
    const id = 'schema-' + name;
    schemas(id, name, el('section', { id }, el('h3', {}, name), prose(schema.description), shape(schema)));
  }
  if (location.hash) {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  }
}

fetch('/openapi.json')
  .then((response) => response.json())
  .then(show)
  .catch((error) => document.querySelector('main').replaceChildren(el('p', {}, 'openapi.json could not be shown: ' + error)));
