from package.contrib import *
