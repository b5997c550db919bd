# The pinned sources.  Read by make and by the shell: NAME=value, no blanks.
# LINUX_TREE and QEMU_TREE are the git trees these packages unpack to
# (linux-source: without Debian's own lines at the end of .gitignore; qemu: with
# Debian's patches applied).  How to move a pin: HACKING.md.
LINUX_PACKAGE=linux-source-6.12
LINUX_BRANCH=6.12
LINUX_VERSION=6.12.117-1~deb12u1
LINUX_TREE=4ed5056c1f97050724968e1ac360ec1dca605a07
QEMU_BRANCH=10.0
QEMU_VERSION=1:10.0.13+ds-0+deb13u1
QEMU_TREE=d7bb6e9c5019c202158639da67e58ed9744c446f
