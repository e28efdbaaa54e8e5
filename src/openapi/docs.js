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

function callersOf(op) {
  return (op.security || []).flatMap((one) => Object.keys(one));
}

function exampleOf(content) {
  const { example, examples } = content || {};
  return example === undefined ? Object.values(examples || {})[0]?.value : example;
}

// The call for a shell, with the document's examples; the first way to call is enough.
function curl(path, method, op) {
  const example = (name) => op.parameters.find((one) => one.name === name)?.example ?? name;
  const url = location.origin + path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(example(name)));
  const caller = { api_key: '$API_KEY', session: '$SESSION_TOKEN' }[callersOf(op)[0]];
  const content = exampleOf(op.requestBody?.content['application/json']);
  const body = content && JSON.stringify(content, null, 2).replaceAll("'", "'\\''");
  return ['curl' + (method === 'get' || (body && method === 'post') ? '' : ' -X ' + method.toUpperCase()) + ` '${url}'`,
    caller && `-H "Authorization: Bearer ${caller}"`,
    body && "-H 'Content-Type: application/json'",
    body && `-d '${body}'`].filter(Boolean).join(' \\\n  ');
}

function answer(spec, status, response) {
  const headers = Object.entries(response.headers || {}).map(([name, header]) => [name, false, [], deref(spec, header).description]);
  return el('details', { class: 'answer s' + status[0] },
    el('summary', {}, el('b', {}, status), ' ', inline(response.description || '')),
    body(response.content),
    headers.length ? [el('h5', {}, 'Headers'), fields(headers)] : []);
}

function operation(spec, path, method, op) {
  const callers = callersOf(op);
  const parameters = (op.parameters || []).map((one) => [one.name, one.required, [...type(one.schema), ' in ' + one.in], one.description]);
  return el('section', { id: op.operationId },
    el('h4', {}, op.summary || op.operationId),
    el('p', { class: 'route' }, el('b', { class: method }, method.toUpperCase()), ' ', el('code', {}, path)),
    prose(op.description),
    callers.length ? el('p', { class: 'type' }, 'Called with: ', callers.flatMap((name, i) =>
      [i ? ' or ' : '', el('a', { href: '#scheme-' + name }, name)])) : null,
    parameters.length ? [el('h5', {}, 'Parameters'), fields(parameters)] : [],
    op.requestBody ? [el('h5', {}, 'Body'), prose(op.requestBody.description), body(op.requestBody.content)] : [],
    callers.includes('svix_signature') ? [] : el('details', {}, el('summary', {}, 'With curl'), el('pre', { tabindex: '0' }, curl(path, method, op))),
    el('h5', {}, 'Answers'),
    Object.entries(op.responses).map(([status, response]) => answer(spec, status, response)));
}

// Each entry of the navigation with its section, for the search.
const entries = [];

function show(spec) {
  const nav = document.querySelector('nav ul');
  const main = document.querySelector('main');
  main.replaceChildren(
    el('h1', {}, spec.info.title + ' ' + spec.info.version),
    ...prose(spec.info.description),
    el('p', {}, el('a', { href: '/openapi.json' }, 'openapi.json')));
  const part = (title) => {
    const list = el('ul');
    const item = el('li', {}, el('h2', {}, title), list);
    const heading = el('h2', {}, title);
    nav.append(item);
    main.append(heading);
    return { list, heads: [item, heading] };
  };
  const group = (within, title, text) => {
    const list = el('ul');
    const item = el('li', {}, title ? el('h3', {}, title) : [], list);
    const head = el('div', {}, title ? el('h3', {}, title) : [], ...prose(text));
    within.list.append(item);
    main.append(head);
    return (id, words, section) => {
      main.append(section);
      const item_ = el('li', {}, el('a', { href: '#' + id }, words));
      list.append(item_);
      const text = [id, words, section.textContent].join(' ').toLowerCase();
      entries.push({ text, shown: [item_, section], heads: [item, head, ...within.heads] });
    };
  };
  for (const callers of spec['x-tagGroups']) {
    const within = part(callers.name);
    for (const name of callers.tags) {
      const add = group(within, name, spec.tags.find((tag) => tag.name === name).description);
      for (const [path, item] of Object.entries(spec.paths)) {
        for (const method of METHODS) {
          const op = item[method];
          if (op && op.tags.includes(name)) add(op.operationId, op.summary, operation(spec, path, method, op));
        }
      }
    }
  }
  const schemes = group(part('Who calls'), '', '');
  for (const [name, scheme] of Object.entries(spec.components.securitySchemes)) {
    const id = 'scheme-' + name;
    const how = [scheme.type, scheme.scheme, scheme.in, scheme.name].filter(Boolean).join(' ');
    schemes(id, name, el('section', { id }, el('h4', {}, name), el('p', { class: 'type' }, how), prose(scheme.description)));
  }
  const schemas = group(part('Schemas'), '', '');
  for (const [name, schema] of Object.entries(spec.components.schemas)) {
    const id = 'schema-' + name;
    schemas(id, name, el('section', { id }, el('h4', {}, name), prose(schema.description), shape(schema)));
  }
  if (location.hash) {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  }
}

// Shows what has all of the words, with its headings.
function find(words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { heads } of entries) for (const head of heads) head.hidden = true;
  let found = 0;
  for (const { text, shown, heads } of entries) {
    const isFound = wanted.every((word) => text.includes(word));
    for (const node of shown) node.hidden = !isFound;
    if (isFound) for (const head of heads) head.hidden = false;
    found += isFound;
  }
  document.getElementById('found').textContent = wanted.length ? found + ' found' : '';
}

const search = document.getElementById('search');
search.addEventListener('input', () => find(search.value));
document.addEventListener('keydown', (event) => {
  if (event.key === '/' && !event.target.closest('input, textarea')) {
    event.preventDefault();
    search.focus();
  }
});

fetch('/openapi.json')
  .then((response) => response.json())
  .then((spec) => {
    show(spec);
    document.dispatchEvent(new CustomEvent('usher-docs', { detail: spec }));
  })
  .catch((error) => document.querySelector('main').replaceChildren(el('p', {}, 'openapi.json could not be shown: ' + error)));
