"""`python -m icf_deploy.cli` is `icf-deploy`."""

from icf_deploy.cli import main

main()
