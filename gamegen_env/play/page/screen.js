// Frames onto the screen, and what there is to know about them.
import { $, game, say, send } from './link.js';

// Only the newest frame is drawn, when the browser is about to paint; the server sends more once it has heard so.
let waiting = null;
export function arrive(buffer) {
  if (!waiting) requestAnimationFrame(() => { const latest = waiting; waiting = null; show(latest); });
  waiting = buffer;
}

function show(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const head = game.head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  send({ do: 'drawn', n: head.n });
  $('second').hidden = head.views.length < 2;
  let at = 4 + size;
  head.views.forEach((view, i) => {
    const n = view.side * view.side, rgb = new Uint8Array(buffer, at, 3 * n), image = new ImageData(view.side, view.side);
    for (let p = 0; p < n; p++) {
      image.data[4 * p] = rgb[3 * p];
      image.data[4 * p + 1] = rgb[3 * p + 1];
      image.data[4 * p + 2] = rgb[3 * p + 2];
      image.data[4 * p + 3] = 255;
    }
    at += 3 * n;
    $(`screen${i}`).getContext('2d').putImageData(image, 0, 0);
    overlay($(`over${i}`), view);
  });
  figures(head);
}

export function overlay(canvas, view) {
  const context = canvas.getContext('2d'), scale = canvas.width / view.side, middle = canvas.width / 2;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if ($('tiles').checked) {
    context.strokeStyle = '#7fd1ae';
    context.lineWidth = 2;
    for (const [x, y] of view.tiles) context.strokeRect(x * scale + 1, y * scale + 1, 4 * scale - 2, 4 * scale - 2);
    const [dx, dy] = view.scroll;
    if (dx || dy) {
      context.beginPath();
      context.moveTo(middle, middle);
      context.lineTo(middle + 4 * dx * scale, middle + 4 * dy * scale);
      context.stroke();
    }
  }
  if (view.over) {
    context.fillStyle = '#000a';
    context.fillRect(0, middle - 40, canvas.width, 80);
    context.fillStyle = '#fff';
    context.font = '600 28px system-ui';
    context.textAlign = 'center';
    context.fillText('game over', middle, middle + 2);
    context.font = '15px system-ui';
    context.fillText('R starts again, Backspace goes back', middle, middle + 26);
  }
}

const arrivals = [];
let newest = 0;
function figures(head) {
  const now = performance.now(), view = head.views[0];
  arrivals.push(now);
  while (arrivals[0] < now - 2000) arrivals.shift();
  $('fps').textContent = head.paused ? '–' : (arrivals.length / 2).toFixed(0);
  $('latency').textContent = head.step_ms.toFixed(1);
  if (head.pressed_at > newest) {
    newest = head.pressed_at;
    // The frame is on its way to the screen: by the next refresh it can be seen.
    requestAnimationFrame((refresh) => { $('photon').textContent = (refresh - newest).toFixed(0); });
  }
  const action = game.setup.actions[view.action].toLowerCase();
  const told = [view.step, action, view.score, view.reward, view.over ? 'yes' : 'no', view.tokens, view.scroll.join(', ')];
  [...$('inside').querySelectorAll('dd')].forEach((cell, i) => { cell.textContent = told[i]; });
  odds(head.odds);
  $('pause').classList.toggle('paused', head.paused);
  $('agent').classList.toggle('on', head.agent);
  $('rate').value = head.rate;
  for (const place of $('places').children) place.classList.toggle('kept', head.places.includes(Number(place.textContent)));
  if (head.trouble) say(head.trouble, true);
  if (head.script) say(`Replaying, ${head.script} steps to go. Touch a key to take over.`);
  document.body.dataset.step = view.step;
}

// The agent's five likeliest actions.
function odds(probabilities) {
  $('odds').hidden = !probabilities.length;
  const best = probabilities.map((p, action) => [p, action]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  $('odds').replaceChildren(...best.map(([p, action]) => {
    const row = document.createElement('div'), name = document.createElement('span'), bar = document.createElement('meter');
    name.textContent = game.setup.actions[action].toLowerCase();
    bar.value = p;
    bar.title = p.toFixed(3);
    row.append(name, bar);
    return row;
  }));
}
