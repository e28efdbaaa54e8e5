// In development: sends calls from the page. A credential is kept in its field and nowhere else, so it is gone with the tab.
'use strict';

const CREDENTIALS = { api_key: 'API key', session: 'Session token' };
const SHOWN_HEADERS = ['content-type', 'location', 'retry-after', 'ratelimit'];

function labelled(text, field) {
  return el('label', {}, text, field);
}

function parameterField(one) {
  const field = el('input', { name: one.name, 'data-in': one.in, autocomplete: 'off', spellcheck: 'false' });
  if (one.required) {
    field.required = true;
    field.value = one.example ?? '';
  } else {
    field.placeholder = one.example ?? '';
  }
  return labelled(one.name + (one.required ? '' : ' (optional)'), field);
}

function credentialField(scheme) {
  const field = el('input', { type: 'password', autocomplete: 'off', 'data-credential': scheme, required: '' });
  // Typed in once, it is there for all calls.
  field.addEventListener('input', () => {
    for (const other of document.querySelectorAll(`[data-credential=${scheme}]`)) other.value = field.value;
  });
  return labelled(CREDENTIALS[scheme], field);
}

function requestOf(form, path, method) {
  const query = new URLSearchParams();
  const headers = {};
  let url = path;
  for (const field of form.querySelectorAll('[data-in]')) {
    const { name, value } = field;
    if (field.dataset.in === 'path') url = url.replace(`{${name}}`, encodeURIComponent(value));
    else if (value && field.dataset.in === 'query') query.append(name, value);
    else if (value) headers[name] = value;
  }
  const credential = form.querySelector('[data-credential]');
  if (credential) headers.authorization = 'Bearer ' + credential.value;
  const body = form.querySelector('textarea')?.value;
  if (body) headers['content-type'] = 'application/json';
  return [url + (query.size ? '?' + query : ''), { method: method.toUpperCase(), headers, body, credentials: 'omit' }];
}

async function said(url, options) {
  const answer = await fetch(url, options);
  const text = await answer.text();
  const headers = SHOWN_HEADERS.filter((name) => answer.headers.has(name)).map((name) => `${name}: ${answer.headers.get(name)}`);
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // It is shown as it came.
  }
  return [`${options.method} ${url}`, `${answer.status} ${answer.statusText}`, ...headers, '', shown].join('\n');
}

function tryIt(spec, path, method, op) {
  const scheme = callersOf(op).find((name) => Object.hasOwn(CREDENTIALS, name));
  const example = exampleOf(op.requestBody?.content['application/json']);
  const output = el('pre', { tabindex: '0', hidden: '', role: 'status' });
  const body = el('textarea', { rows: '8', spellcheck: 'false' });
  body.value = example === undefined ? '' : JSON.stringify(example, null, 2);
  const form = el('form', {},
    scheme ? credentialField(scheme) : [],
    (op.parameters || []).map((one) => parameterField(deref(spec, one))),
    op.requestBody ? labelled('Body', body) : [],
    el('button', { type: 'submit' }, 'Send'), output);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    output.hidden = false;
    output.textContent = '…';
    output.textContent = await said(...requestOf(form, path, method)).catch((error) => `No answer: ${error.message}`);
  });
  return el('details', { class: 'try' }, el('summary', {}, 'Try it'), form);
}

document.addEventListener('usher-docs', ({ detail: spec }) => {
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS) {
      const op = item[method];
      // Clerk alone can sign.
      if (!op || callersOf(op).includes('svix_signature')) continue;
      document.querySelector(`#${op.operationId} > h5:last-of-type`).before(tryIt(spec, path, method, op));
    }
  }
});
