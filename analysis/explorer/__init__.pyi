from .explorer import BiasExplorer as BiasExplorer
