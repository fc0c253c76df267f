(function () {
  'use strict';

  // Step through the rounds: every viewer shows its newest grid up to the round of the one slider.
  var viewers = Array.from(document.querySelectorAll('.viewer'));
  var slider = document.getElementById('samples-slider'), label = document.getElementById('samples-label');
  if (slider && viewers.length) {
    var rounds = [];
    viewers.forEach(function (viewer) {
      viewer.classList.add('sliding');
      viewer.querySelectorAll('figure').forEach(function (frame) { rounds.push(Number(frame.dataset.round)); });
    });
    rounds = Array.from(new Set(rounds)).sort(function (a, b) { return a - b; });
    var show = function (i) {
      var words = '';
      viewers.forEach(function (viewer) {
        var frames = Array.from(viewer.querySelectorAll('figure'));
        var newest = 0;
        frames.forEach(function (frame, j) { if (Number(frame.dataset.round) <= rounds[i]) newest = j; });
        frames.forEach(function (frame, j) { frame.hidden = j !== newest; });
        words = frames[newest].dataset.label;
      });
      if (viewers.length > 1) words = 'up to round ' + rounds[i];
      label.textContent = words;
      slider.setAttribute('aria-valuetext', words);
    };
    slider.max = rounds.length - 1;
    slider.value = rounds.length - 1;
    slider.addEventListener('input', function () { show(Number(slider.value)); });
    show(rounds.length - 1);
    slider.closest('.controls').hidden = rounds.length < 2;
  }

  // Choose the ε: what belongs to another one is hidden; what has none (the baseline) stays.
  var chooser = document.getElementById('epsilon-chooser');
  if (chooser) {
    document.getElementById('epsilon-controls').classList.add('on');
    chooser.addEventListener('change', function () {
      document.querySelectorAll('[data-epsilon]').forEach(function (part) {
        var own = part.dataset.epsilon;
        part.hidden = chooser.value !== 'all' && own !== 'inf' && own !== chooser.value;
      });
    });
  }

  // Sort a table by one of its columns.
  document.querySelectorAll('table.sortable th').forEach(function (head) {
    var button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    head.textContent = '';
    head.appendChild(button);
    button.addEventListener('click', function () {
      var column = Array.from(head.parentNode.children).indexOf(head), body = head.closest('table').tBodies[0];
      var down = head.getAttribute('aria-sort') === 'ascending';
      head.parentNode.querySelectorAll('th').forEach(function (other) { other.removeAttribute('aria-sort'); });
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      var value = function (row) {
        var cell = row.children[column], number = parseFloat(cell.dataset.v);
        return isNaN(number) ? cell.textContent : number;
      };
      Array.from(body.rows).sort(function (one, other) {
        var a = value(one), b = value(other);
        var order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === 'number' ? -1 : 1;
        return down ? -order : order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });

  // Hover, touch or the arrow keys show the nearest point of a figure.
  var tip = document.createElement('div');
  tip.id = 'tip';
  tip.hidden = true;
  tip.setAttribute('role', 'status');
  document.body.appendChild(tip);
  document.querySelectorAll('svg.plot').forEach(function (plot) {
    var dots = Array.from(plot.querySelectorAll('.dots circle')), at = -1;
    if (!dots.length) return;
    dots.forEach(function (dot) {
      var title = dot.querySelector('title');
      dot.dataset.says = title.textContent;
      title.remove(); // or the browser would show a second box
    });
    function leave() {
      tip.hidden = true;
      dots.forEach(function (dot) { dot.classList.remove('on'); });
    }
    function point(i) {
      leave();
      at = i;
      dots[i].classList.add('on');
      tip.textContent = dots[i].dataset.says;
      tip.hidden = false;
      var box = dots[i].getBoundingClientRect();
      var left = Math.min(Math.max(8, box.left - tip.offsetWidth / 2), document.documentElement.clientWidth - tip.offsetWidth - 8);
      tip.style.left = left + 'px';
      tip.style.top = (box.top > tip.offsetHeight + 14 ? box.top - tip.offsetHeight - 8 : box.bottom + 8) + 'px';
    }
    function nearest(event) {
      var best = -1, least = 40 * 40;
      dots.forEach(function (dot, i) {
        var box = dot.getBoundingClientRect();
        var x = box.left + box.width / 2 - event.clientX, y = box.top + box.height / 2 - event.clientY;
        if (x * x + y * y < least) { least = x * x + y * y; best = i; }
      });
      if (best < 0) leave(); else point(best);
    }
    plot.tabIndex = 0;
    plot.addEventListener('pointermove', nearest);
    plot.addEventListener('pointerdown', nearest);
    plot.addEventListener('pointerleave', leave);
    plot.addEventListener('blur', leave);
    plot.addEventListener('keydown', function (event) {
      var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      point((at + step + dots.length) % dots.length);
    });
  });
})();
