"""Flower's configuration: `celery -A scheduler.tasks flower --conf=deploy/flower/flowerconfig.py`.

Everything that a site may change is in the settings.
"""

from db.atomic import keep_private
from db.settings import SettingsInvalid, home
from deploy.flower.restrictions import close, redact
from deploy.flower.settings import FlowerSettings
from deploy.flower.state import is_ours_alone

keep_private()
_settings = FlowerSettings.read()
if not _settings.flower_password.get_secret_value():
    raise SettingsInvalid("PNEUMOSCREEN_FLOWER_PASSWORD")
close(metrics=_settings.flower_metrics)

address = _settings.flower_host
port = _settings.flower_port or 5555
basic_auth = [f"{_settings.flower_user}:{_settings.flower_password.get_secret_value()}"]
read_only = _settings.flower_read_only
format_task = redact
tasks_columns = "name,args,result,state,received,started,runtime,worker"
natural_time = True
# A worker that has ended stays visible for a day.
purge_offline_workers = 86_400
# The batches of five million images; each task takes about 5 kB of memory.
max_tasks = 20_000
persistent = _settings.flower_persistent and is_ours_alone(home() / "flower")
db = str(home() / "flower" / "state")
state_save_interval = 60_000
if _settings.flower_cookie_secret.get_secret_value():
    cookie_secret = _settings.flower_cookie_secret.get_secret_value()
